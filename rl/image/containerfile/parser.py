"""Instructions of a Containerfile: keyword, flags with their places, operands; and its stages.

What can be told without knowing variables or files is told here, with line, column and a caret. Called by
rl.engine.build, and by it again for the triggers (ONBUILD) of a base image.

Source: Dockerfile reference.
"""

from __future__ import annotations

import difflib
import re

from rl.config.jsonio import loads
from rl.image.containerfile.errors import ContainerfileError
from rl.image.containerfile.lines import Line, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.image.containerfile.lines import Heredoc

#: Flags of each instruction that has some: True where one may come without a value.
FLAGS: dict[str, dict[str, bool]] = {
    "ADD": {"chown": False, "chmod": False, "link": True, "keep-git-dir": True, "checksum": False, "exclude": False,
            "unpack": True},
    "COPY": {"from": False, "chown": False, "chmod": False, "link": True, "parents": True, "exclude": False},
    "FROM": {"platform": False},
    "HEALTHCHECK": {"interval": False, "timeout": False, "start-period": False, "start-interval": False,
                    "retries": False},
    "RUN": {"mount": False, "network": False, "security": False},
}
_REPEATED = ("exclude", "mount")
_STAGE = re.compile(r"[a-z][a-z0-9._-]*\Z")
_KEYWORD = re.compile(r"[^\s]+")


class Flag:
    """``--name=value``; ``at``: where it begins in the line."""

    __slots__ = ("at", "name", "value")

    def __init__(self, name: str, value: str, at: int) -> None:
        self.name = name
        self.value = value
        self.at = at


class Instruction:
    """One instruction.

    ``rest``: all behind keyword and flags, as it stands (``at``: where); ``json``: that as a list, where it is JSON and
    the instruction takes it; ``words``: its operands, split at blanks or, for ENV, LABEL and ARG, by quotes.
    """

    __slots__ = ("at", "flags", "json", "keyword", "line", "rest", "source", "words")

    def __init__(self, source: Source, line: Line, keyword: str, flags: list[Flag], rest: str, at: int) -> None:
        self.source = source
        self.line = line
        self.keyword = keyword
        self.flags = flags
        self.rest = rest
        self.at = at
        self.json: list[str] | None = None
        self.words: list[str] = []

    @property
    def heredocs(self) -> list[Heredoc]:
        return self.line.heredocs

    @property
    def text(self) -> str:
        """The logical line: keyword, flags, operands."""
        return self.line.text

    def flag(self, name: str, default: str = "") -> str:
        """The value of the flag *name*."""
        return next((flag.value for flag in self.flags if flag.name == name), default)

    def all(self, name: str) -> list[str]:
        """The values of a flag that may come several times."""
        return [flag.value for flag in self.flags if flag.name == name]

    def error(self, what: str, hint: str = "", at: int | None = None) -> ContainerfileError:
        """The error *what* at this place: by default where the operands begin."""
        return self.source.error(self.line, self.at if at is None else at, what, hint)

    def flag_error(self, name: str, what: str, hint: str = "") -> ContainerfileError:
        """The error *what* at the flag *name*."""
        return self.error(what, hint, next((flag.at for flag in self.flags if flag.name == name), 0))


class Stage:
    """FROM and what follows it. ``name``: of AS, in small letters; ``base``: the operand of FROM, not expanded."""

    __slots__ = ("base", "instructions", "name", "number", "start")

    def __init__(self, number: int, start: Instruction, base: str, name: str) -> None:
        self.number = number
        self.start = start
        self.base = base
        self.name = name
        self.instructions: list[Instruction] = []


class Containerfile:
    """``arguments``: the ARG instructions before the first FROM; ``stages``: at least one."""

    __slots__ = ("arguments", "source", "stages")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.arguments: list[Instruction] = []
        self.stages: list[Stage] = []

    def stage(self, name: str) -> Stage | None:
        """The stage called *name* (the last of several), or with that number."""
        for stage in reversed(self.stages):
            if stage.name and stage.name == name.lower():
                return stage
        return self.stages[int(name)] if name.isdecimal() and int(name) < len(self.stages) else None


def parse(data: bytes, name: str) -> Containerfile:
    """The Containerfile in *data*; *name* stands in errors. Raises ContainerfileError."""
    source = Source(data, name)
    file = Containerfile(source)
    for line in source.lines:
        instruction = parse_line(source, line)
        if instruction.keyword == "FROM":
            file.stages.append(_stage(len(file.stages), instruction))
        elif file.stages:
            file.stages[-1].instructions.append(instruction)
        elif instruction.keyword == "ARG":
            file.arguments.append(instruction)
        else:
            raise instruction.error("no FROM before this", "a Containerfile begins with FROM (or ARG)", 0)
    if not file.stages:
        first = source.physical[0] if source.physical else ""
        raise ContainerfileError(name, 1, 1, first, "no FROM: nothing to build", "begin with FROM IMAGE")
    return file


def triggers(lines: list[str], name: str, escape: str = "\\") -> list[Instruction]:
    """The instructions that a base image's ONBUILD holds. Raises ContainerfileError."""
    found = []
    for text in lines:
        head = "" if escape == "\\" else f"# escape={escape}\n"
        source = Source((head + text).encode(), name)
        for line in source.lines:
            instruction = parse_line(source, line)
            if instruction.keyword in ("FROM", "ONBUILD", "MAINTAINER"):
                raise instruction.error(f"{instruction.keyword} is not allowed as an ONBUILD trigger", "", 0)
            found.append(instruction)
    return found


def parse_line(source: Source, line: Line) -> Instruction:
    """The instruction of a logical line. Raises ContainerfileError."""
    word = _KEYWORD.match(line.text)
    assert word is not None  # an empty line is none
    keyword = word[0].upper()
    handler = _INSTRUCTIONS.get(keyword)
    if handler is None:
        near = difflib.get_close_matches(keyword, _INSTRUCTIONS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(_INSTRUCTIONS))}"
        raise source.error(line, 0, f"unknown instruction {word[0]}", hint)
    flags, at = _flags(source, line, keyword, word.end())
    instruction = Instruction(source, line, keyword, flags, line.text[at:], at)
    handler(instruction)
    return instruction


# flags


def _flags(source: Source, line: Line, keyword: str, at: int) -> tuple[list[Flag], int]:
    """The flags, and where the operands begin."""
    text = line.text
    found: list[Flag] = []
    known = FLAGS.get(keyword, {})
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at) or (not known and keyword != "ONBUILD"):
            return found, at
        start = at
        word, at = _flag_word(source, line, at)
        if word == "--":
            continue
        if keyword == "ONBUILD":
            raise source.error(line, start, "ONBUILD has no flags", "they belong behind the instruction it holds")
        name, equals, value = word[2:].partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean --{near[0]}?" if near else f"{keyword} has {', '.join('--' + one for one in known)}"
            raise source.error(line, start, f"{keyword} has no flag --{name}", hint)
        if not equals and not known[name]:
            raise source.error(line, start, f"--{name} needs a value", f"write it as --{name}=…")
        if known[name] and equals and value not in ("true", "false", "1", "0"):
            raise source.error(line, start, f"--{name}={value}: neither true nor false")
        if name not in _REPEATED and any(flag.name == name for flag in found):
            raise source.error(line, start, f"--{name} is there twice", "leave one out")
        found.append(Flag(name, value if equals else "true", start))


def _flag_word(source: Source, line: Line, at: int) -> tuple[str, int]:
    """The word at *at* without its quotes, and where it ends. Variables in it keep what escapes them."""
    text, word, quote, start = line.text, "", "", at
    while at < len(text):
        character = text[at]
        if character == source.escape and quote != "'" and at + 1 < len(text):
            following = text[at + 1]
            word += following if following in "\"' \t" else character + following
            at += 1
        elif quote:
            word += "" if character == quote else character
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character.isspace():
            break
        else:
            word += character
        at += 1
    if quote:
        raise source.error(line, start, f"a {quote} is not closed")
    return word, at


# operands


def _json(instruction: Instruction) -> None:
    """Operands as JSON where they are; else the words between blanks."""
    if instruction.rest.startswith("["):
        try:
            value = loads(instruction.rest)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            instruction.json = instruction.words = value
            return
    instruction.words = instruction.rest.split()


def _needs(count: int, form: str) -> Callable[[Instruction], None]:
    """A check for at least *count* words."""

    def check(instruction: Instruction) -> None:
        _json(instruction)
        if len(instruction.words) < count:
            raise _incomplete(instruction, form)

    return check


def _incomplete(instruction: Instruction, form: str) -> ContainerfileError:
    return instruction.error(f"{instruction.keyword} needs more", f"write it as {form}", len(instruction.text))


def _command(instruction: Instruction) -> None:
    _json(instruction)
    if instruction.keyword == "RUN" and not instruction.rest:
        raise _incomplete(instruction, "RUN COMMAND or RUN [\"PROGRAM\", \"ARGUMENT\"]")


def _shell(instruction: Instruction) -> None:
    _json(instruction)
    if not instruction.json:
        raise instruction.error("SHELL takes a list in JSON", 'for example SHELL ["/bin/sh", "-c"]')


def _one(form: str) -> Callable[[Instruction], None]:
    """Everything behind the keyword is one operand."""

    def check(instruction: Instruction) -> None:
        instruction.words = [instruction.rest] if instruction.rest else []
        if not instruction.rest:
            raise _incomplete(instruction, form)

    return check


def _single(form: str) -> Callable[[Instruction], None]:
    """Exactly one word, though quotes and variables may hold blanks."""
    return _one(form)


def _pairs(instruction: Instruction) -> None:
    """ENV and LABEL: k=v …; or the old form, k and all the rest."""
    form = f"{instruction.keyword} name=value"
    if not instruction.rest:
        raise _incomplete(instruction, form)
    words = split_words(instruction, instruction.rest, instruction.at)
    if "=" not in words[0]:
        key, _, value = instruction.rest.partition(words[0])[2].partition("\0")
        value = key.strip()
        if not value:
            raise instruction.error(f"{instruction.keyword} {words[0]}: no value", f"write it as {form}")
        instruction.words = [f"{words[0]}={value}"]
        return
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name.strip("\"'"):
            at = instruction.at + max(instruction.rest.find(word), 0)
            raise instruction.error(f"{word!r} is not name=value", "put values with blanks in quotes", at)
    instruction.words = words


def is_old_form(instruction: Instruction) -> bool:
    """Whether it is ``ENV name value``, with a blank instead of =."""
    return "=" not in split_words(instruction, instruction.rest, instruction.at)[0]


def _argument(instruction: Instruction) -> None:
    if not instruction.rest:
        raise _incomplete(instruction, "ARG name or ARG name=default")
    instruction.words = split_words(instruction, instruction.rest, instruction.at)
    for word in instruction.words:
        name = word.partition("=")[0]
        if not name.strip("\"'"):
            raise instruction.error(f"ARG {word}: no name", "write it as ARG name=default")


def split_words(instruction: Instruction, text: str, at: int) -> list[str]:
    """Words with quotes and escapes left in them, which hold blanks together. Raises ContainerfileError."""
    words, word, quote, start = [], "", "", at
    escape = instruction.source.escape
    position = 0
    while position < len(text):
        character = text[position]
        if character == escape and quote != "'":
            word += text[position : position + 2]
            position += 1
        elif quote:
            word += character
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote, start = character, at + position
            word += character
        elif character.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += character
        position += 1
    if quote:
        raise instruction.error(f"a {quote} is not closed", "", start)
    return [*words, word] if word else words


def _copy(instruction: Instruction) -> None:
    _json(instruction)
    if len(instruction.words) < 2:
        raise _incomplete(instruction, f"{instruction.keyword} SOURCE… DESTINATION")
    if instruction.keyword == "ADD" and instruction.flag("checksum") and len(instruction.words) > 2:
        raise instruction.flag_error("checksum", "--checksum is for a single source")


def _from(instruction: Instruction) -> None:
    instruction.words = words = instruction.rest.split()
    form = "FROM IMAGE or FROM IMAGE AS NAME"
    if not words:
        raise _incomplete(instruction, form)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        at = instruction.at + instruction.rest.find(words[1], len(words[0]))
        raise instruction.error(f"FROM takes one image, not {len(words)} words", f"write it as {form}", at)


def _stage(number: int, instruction: Instruction) -> Stage:
    words = instruction.words
    name = words[2] if len(words) == 3 else ""
    if name and not _STAGE.match(name.lower()):
        at = instruction.at + instruction.rest.rfind(name)
        hint = "letters, digits, '.', '_' and '-'; a letter first"
        raise instruction.error(f"{name} is no name for a stage", hint, at)
    return Stage(number, instruction, words[0], name.lower())


def _healthcheck(instruction: Instruction) -> None:
    kind, _, rest = instruction.rest.partition(" ")
    kind = kind.upper()
    if kind == "NONE" and not rest.strip() and not instruction.flags:
        instruction.words = ["NONE"]
        return
    if kind != "CMD":
        what = f"HEALTHCHECK {kind}: unknown" if kind else "HEALTHCHECK needs more"
        raise instruction.error(what, "HEALTHCHECK [OPTIONS] CMD COMMAND, or HEALTHCHECK NONE")
    command = rest.strip()
    if not command:
        raise _incomplete(instruction, "HEALTHCHECK CMD COMMAND")
    whole, instruction.rest = instruction.rest, command
    _json(instruction)
    instruction.words = ["CMD", *instruction.json] if instruction.json else ["CMD-SHELL", command]
    instruction.rest = whole


def _onbuild(instruction: Instruction) -> None:
    word = instruction.rest.split(None, 1)[0].upper() if instruction.rest else ""
    if not word:
        raise _incomplete(instruction, "ONBUILD INSTRUCTION")
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise instruction.error(f"{word} is not allowed as an ONBUILD trigger")
    if word not in _INSTRUCTIONS:
        raise instruction.error(f"unknown instruction {word} behind ONBUILD")
    inner = Line(instruction.line.first)
    inner.text = instruction.rest
    inner.places = [(max(start - instruction.at, 0), number, column + (instruction.at - start if not start else 0))
                    for start, number, column in instruction.line.places]
    inner.heredocs = instruction.line.heredocs
    parse_line(instruction.source, inner)
    instruction.words = [instruction.rest]


_INSTRUCTIONS: dict[str, Callable[[Instruction], None]] = {
    "ADD": _copy,
    "ARG": _argument,
    "CMD": _command,
    "COPY": _copy,
    "ENTRYPOINT": _command,
    "ENV": _pairs,
    "EXPOSE": _needs(1, "EXPOSE PORT"),
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _pairs,
    "MAINTAINER": _one("MAINTAINER NAME"),
    "ONBUILD": _onbuild,
    "RUN": _command,
    "SHELL": _shell,
    "STOPSIGNAL": _single("STOPSIGNAL SIGNAL"),
    "USER": _single("USER NAME[:GROUP]"),
    "VOLUME": _needs(1, "VOLUME PATH"),
    "WORKDIR": _single("WORKDIR PATH"),
}
