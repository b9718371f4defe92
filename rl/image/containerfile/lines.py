"""Logical lines of a Containerfile: directives, comments, continuations, heredocs.

Called by rl.image.containerfile.parser.

Source: Dockerfile reference, "Parser directives", "Format", "Here-Documents".
"""

from __future__ import annotations

import re

from rl.image.containerfile.errors import ContainerfileError

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*?)\s*$")
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]+)$")
#: Instructions that take heredocs.
_TAKES_HEREDOCS = ("RUN", "COPY", "ADD")
#: More than anybody writes; what is larger is no Containerfile.
_LARGEST = 4 << 20


class Heredoc:
    """``text`` between ``<<name`` and the line ``name``; ``expand``: its name was not quoted; ``strip``: ``<<-``."""

    __slots__ = ("expand", "fd", "name", "strip", "text")

    def __init__(self, name: str, expand: bool, strip: bool, fd: str) -> None:
        self.name = name
        self.expand = expand
        self.strip = strip
        self.fd = fd
        self.text = ""


class Line:
    """One logical line.

    ``text``: joined, without comments; ``places``: for each physical line in it (offset in text, line number, column -
    1 of its first character); ``first``, ``last``: line numbers, those of heredocs included.
    """

    __slots__ = ("first", "heredocs", "last", "places", "text")

    def __init__(self, first: int) -> None:
        self.text = ""
        self.places: list[tuple[int, int, int]] = []
        self.first = self.last = first
        self.heredocs: list[Heredoc] = []


class Source:
    """A Containerfile's text, its directives, and its logical lines. Raises ContainerfileError."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.directives: dict[str, str] = {}
        self.escape = "\\"
        self.notes: list[tuple[int, str]] = []  # (line number, what is odd there)
        if len(data) > _LARGEST:
            raise ContainerfileError(name, 1, 1, "", f"{len(data)} bytes are no Containerfile")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise ContainerfileError(
                name, number, 1, "", f"byte {data[error.start]:#04x} is not UTF-8", "save the file as UTF-8"
            ) from None
        if "\0" in text:
            number = text.count("\n", 0, text.index("\0")) + 1
            raise ContainerfileError(name, number, 1, "", "a zero byte", "this is no text file")
        self.physical = [line.removesuffix("\r") for line in text.split("\n")]
        if self.physical[-1] == "":
            self.physical.pop()
        self._directives()
        self.lines = self._logical()

    def error(self, line: Line, offset: int, what: str, hint: str = "") -> ContainerfileError:
        """The error *what* at *offset* of the logical *line*."""
        number, column = line.first, 0
        for start, at, first in line.places:
            if start <= offset:
                number, column = at, first + offset - start
        return ContainerfileError(self.name, number, column + 1, self.physical[number - 1], what, hint)

    # directives

    def _directives(self) -> None:
        for number, text in enumerate(self.physical, 1):
            match = _DIRECTIVE.match(text.strip())
            if not match:
                return
            key, value = match[1].lower(), match[2]
            if key not in _DIRECTIVES:
                return
            if key in self.directives:
                raise ContainerfileError(self.name, number, 1, text, f"the directive {key} is there twice")
            self.directives[key] = value
            if key == "escape":
                if value not in ("\\", "`"):
                    at = text.index(value) + 1 if value else len(text) + 1
                    raise ContainerfileError(
                        self.name, number, at, text, f"invalid escape character {value!r}", "it is \\ or `"
                    )
                self.escape = value

    # lines

    def _logical(self) -> list[Line]:
        escape = re.escape(self.escape)
        continued = re.compile(rf"(?:([^{escape}]){escape}[ \t]*|{escape}[ \t]*)$")
        found = []
        number = 0
        while number < len(self.physical):
            raw = self.physical[number]
            number += 1
            text = raw.lstrip(" \t\v\f\u00a0\u0085")
            if not text or text.startswith("#"):
                continue
            line = Line(number)
            piece, indent = text.rstrip(), len(raw) - len(text)
            while True:
                match = continued.search(piece)
                line.places.append((len(line.text), number, indent))
                if not match:
                    line.text += piece
                    break
                line.text += piece[: match.start()] + (match[1] or "")
                number, following = self._next(number)
                if following is None:
                    break
                piece, indent = following, 0
            _trim(line)
            line.last = min(number, len(self.physical))
            if line.text:
                number = self._heredocs(line, number)
                found.append(line)
        return found

    def _next(self, number: int) -> tuple[int, str | None]:
        """The line that continues one: comments and empty lines between them do not count. None: the file ends."""
        while number < len(self.physical):
            text = self.physical[number]
            number += 1
            if text.lstrip().startswith("#"):
                continue
            if not text.strip():
                self.notes.append((number, "an empty line inside of an instruction"))
                continue
            return number, text.rstrip("\r")
        return number, None

    # heredocs

    def _heredocs(self, line: Line, number: int) -> int:
        for name, expand, strip, fd in heredocs_of(line.text, self.escape):
            document = Heredoc(name, expand, strip, fd)
            body = []
            while True:
                if number >= len(self.physical):
                    at = line.text.find("<<")
                    raise self.error(line, at, f"the heredoc {name} has no end", f"a line with nothing but {name}")
                text = self.physical[number]
                number += 1
                if strip:
                    text = text.lstrip("\t")
                if text == name:
                    break
                body.append(text + "\n")
            document.text = "".join(body)
            line.heredocs.append(document)
            line.last = number
        return number


def _trim(line: Line) -> None:
    """Without blanks at its ends: the first physical line may have been nothing but a continuation."""
    lead = len(line.text) - len(line.text.lstrip())
    line.text = line.text.strip()
    if lead:
        line.places = [
            (max(start - lead, 0), number, column + max(lead - start, 0)) for start, number, column in line.places
        ]


def heredocs_of(text: str, escape: str) -> list[tuple[str, bool, bool, str]]:
    """(name, whether it is expanded, whether tabs are stripped, descriptor) of the heredocs an instruction names."""
    words = text.split(None, 2)
    keyword = words[0].upper()
    if keyword == "ONBUILD" and len(words) > 1:
        keyword = words[1].upper()
    if keyword not in _TAKES_HEREDOCS or "<<" not in text:
        return []
    found = []
    for word in _raw_words(text, escape):
        match = _HEREDOC.match(word)
        if not match:
            continue
        name = _unquoted(match[3], escape)
        if name and not any(character.isspace() for character in name):
            found.append((name, name == match[3], bool(match[2]), match[1]))
    return found


def _raw_words(text: str, escape: str) -> list[str]:
    """Words, quotes and escapes left as they are."""
    words, word, quote = [], "", ""
    characters = iter(text)
    for character in characters:
        if character == escape and quote != "'":
            word += character + next(characters, "")
        elif quote:
            word += character
            quote = "" if character == quote else quote
        elif character in "\"'":
            word += character
            quote = character
        elif character.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += character
    return [*words, word] if word and not quote else words


def _unquoted(word: str, escape: str) -> str:
    name, quote = "", ""
    characters = iter(word)
    for character in characters:
        if character == escape and quote != "'":
            name += next(characters, "")
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        else:
            name += character
    return name
