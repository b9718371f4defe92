"""Variables in words, as BuildKit's shell lexer expands them: $x, ${x}, ${x:-y}, ${x#pattern}, quotes, escapes.

Source: Dockerfile reference, "Environment replacement"; POSIX.1-2017 shell command language, 2.6.2 "Parameter
Expansion", for the prefix and suffix forms.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = "@*#?-$!0"


class ExpansionError(ValueError):
    """What is wrong with a word; ``offset`` in it."""

    def __init__(self, what: str, offset: int = 0) -> None:
        super().__init__(what)
        self.offset = offset


class Expander:
    """Expands words with the variables of *lookup*.

    *escape*: the escape character. *raw*: quotes and escapes stay as they are (heredocs). ``unset`` collects names that
    were asked for and not there.
    """

    def __init__(self, lookup: Mapping[str, str], escape: str = "\\", *, raw: bool = False) -> None:
        self._lookup = lookup
        self._escape = escape
        self._raw = raw
        self.unset: set[str] = set()

    def word(self, text: str) -> str:
        """*text* as one word. Raises ExpansionError."""
        return "".join(_Scan(text, self).run()[0])

    def words(self, text: str) -> list[str]:
        """*text* expanded, then split where there are blanks outside of quotes. Raises ExpansionError."""
        return _Scan(text, self).run(split=True)

    def get(self, name: str) -> str | None:
        value = self._lookup.get(name)
        if value is None:
            self.unset.add(name)
        return value

    @property
    def escape(self) -> str:
        return self._escape

    @property
    def raw(self) -> bool:
        return self._raw


class _Scan:
    """One pass over a word."""

    def __init__(self, text: str, owner: Expander) -> None:
        self.text = text
        self.at = 0
        self.owner = owner
        self.words: list[str] = []
        self.current = ""
        self.open = False  # whether there is a word, if only an empty one in quotes

    def run(self, split: bool = False) -> list[str]:
        while self.at < len(self.text):
            character = self.text[self.at]
            if split and character.isspace():
                self._end()
                self.at += 1
            elif character == "'" and not self.owner.raw:
                self._single()
            elif character == '"' and not self.owner.raw:
                self._double()
            elif character == "$":
                value = self._dollar()
                if split and not self.owner.raw:
                    self._add_split(value)
                else:
                    self._add(value)
            elif character == self.owner.escape:
                self._escaped()
            else:
                self._add(character)
                self.at += 1
        if split:
            self._end()
            return self.words
        return [self.current]

    def _add(self, text: str) -> None:
        self.current += text
        self.open = True

    def _add_split(self, value: str) -> None:
        """What a variable holds is split where it stands outside of quotes."""
        pieces = value.split()
        if not pieces:
            if value and self.open:
                self._end()
            return
        if value[0].isspace():
            self._end()
        for number, piece in enumerate(pieces):
            if number:
                self._end()
            self._add(piece)
        if value[-1].isspace():
            self._end()

    def _end(self) -> None:
        if self.open:
            self.words.append(self.current)
        self.current, self.open = "", False

    def _escaped(self) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        if self.owner.raw:
            # only a dollar needs it in a heredoc
            self._add(following if following == "$" else self.owner.escape + following)
        elif not following:
            self._add(self.owner.escape)
        else:
            self._add(following)
        self.at += 2

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ExpansionError("a ' is not closed", self.at)
        self._add(self.text[self.at + 1 : end])
        self.at = end + 1

    def _double(self) -> None:
        start = self.at
        self.at += 1
        self._add("")
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == '"':
                self.at += 1
                return
            if character == "$":
                self._add(self._dollar())
            elif character == self.owner.escape:
                following = self.text[self.at + 1 : self.at + 2]
                if following and (following in '"$' or following == self.owner.escape):
                    self._add(following)
                else:
                    self._add(character + following)
                self.at += 2
            else:
                self._add(character)
                self.at += 1
        raise ExpansionError('a " is not closed', start)

    # variables

    def _dollar(self) -> str:
        """The value of what begins with the dollar at ``at``, which is moved behind it."""
        start = self.at
        self.at += 1
        if self.text[self.at : self.at + 1] == "{":
            return self._braced(start)
        match = _NAME.match(self.text, self.at)
        if match:
            self.at = match.end()
            return self.owner.get(match[0]) or ""
        character = self.text[self.at : self.at + 1]
        if character and (character in _SPECIAL or character.isdigit()):
            self.at += 1
            return self.owner.get(character) or ""
        return "$"

    def _braced(self, start: int) -> str:
        self.at += 1
        match = _NAME.match(self.text, self.at)
        if match:
            name = match[0]
        else:
            name = self.text[self.at : self.at + 1]
            if not name or not (name in _SPECIAL or name.isdigit()):
                raise ExpansionError("${ without the name of a variable", start)
        self.at += len(name)
        operator = self._operator(start)
        if operator == "}":
            return self.owner.get(name) or ""
        operand = self._operand(start)
        value = self.owner.get(name)
        if operator[0] in ":-+?":
            return self._conditional(name, operator, operand, value)
        word = Expander(self.owner._lookup, self.owner.escape)
        if operator[0] in "#%":
            return _cut(value or "", word.word(operand), operator)
        return _replaced(value or "", operand, operator == "//", word.word)

    def _operator(self, start: int) -> str:
        for length in (2, 1):
            operator = self.text[self.at : self.at + length]
            if operator in (":-", ":+", ":?", "##", "%%", "//", "}", "-", "+", "?", "#", "%", "/"):
                self.at += length
                return operator
        if self.at >= len(self.text):
            raise ExpansionError("${ is not closed", start)
        raise ExpansionError(f"unsupported modifier {self.text[self.at : self.at + 2]!r} in ${{…}}", self.at)

    def _operand(self, start: int) -> str:
        """The raw text up to the brace that closes this one; behind it."""
        begin, depth = self.at, 1
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == self.owner.escape:
                self.at += 1
            elif character == "{" and self.text[self.at - 1] == "$":
                depth += 1
            elif character == "}":
                depth -= 1
                if not depth:
                    self.at += 1
                    return self.text[begin : self.at - 1]
            self.at += 1
        raise ExpansionError("${ is not closed", start)

    def _conditional(self, name: str, operator: str, operand: str, value: str | None) -> str:
        absent = value is None or (operator[0] == ":" and not value)
        if value is None:
            self.owner.unset.discard(name)
        nested = Expander(self.owner._lookup, self.owner.escape, raw=self.owner.raw)
        if operator[-1] == "-":
            return nested.word(operand) if absent else value or ""
        if operator[-1] == "+":
            return "" if absent else nested.word(operand)
        if absent:
            raise ExpansionError(f"{name}: {nested.word(operand) or 'not set'}")
        return value or ""


def _pattern(text: str, greedy: bool) -> str:
    """A shell pattern with * and ? as a regular expression."""
    result = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            result += re.escape(next(characters, "\\"))
        elif character == "*":
            result += ".*" if greedy else ".*?"
        elif character == "?":
            result += "."
        else:
            result += re.escape(character)
    return result


def _cut(value: str, pattern: str, operator: str) -> str:
    greedy = len(operator) == 2
    if operator[0] == "#":
        match = re.match(_pattern(pattern, greedy), value, re.DOTALL)
        return value[match.end():] if match else value
    # the shortest suffix is what the rightmost beginning gives, the longest what the leftmost does
    whole = re.compile(_pattern(pattern, True) + r"\Z", re.DOTALL)
    order = range(len(value) + 1) if greedy else range(len(value), -1, -1)
    return next((value[:at] for at in order if whole.match(value, at)), value)


def _replaced(value: str, operand: str, every: bool, expand: Callable[[str], str]) -> str:
    pattern, replacement, escaped = "", None, False
    for at, character in enumerate(operand):
        if character == "/" and not escaped:
            replacement = operand[at + 1 :]
            break
        escaped = character == "\\" and not escaped
        pattern += character
    if replacement is None:
        raise ExpansionError("${x/pattern/replacement}: no replacement")
    text = expand(replacement)
    wanted = re.compile(_pattern(expand(pattern.replace("\\/", "/")), True), re.DOTALL)
    return wanted.sub(lambda _: text, value, 0 if every else 1)
