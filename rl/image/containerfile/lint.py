"""What is allowed in a Containerfile and unwise: the checks of BuildKit, by their names.

Called by rl.engine.build. ``# check=skip=RULE,…;error=true`` leaves rules out, and makes the others errors.

Left out: UndefinedVar and CopyIgnoredFile, for which the images and the context have to be there, and
InvalidDefinitionDescription, which is an experiment there.

Source: Dockerfile reference, "check"; "Build checks" of Docker's manual.
"""

from __future__ import annotations

import re

from rl.errors import UsageError
from rl.image import reference
from rl.image.containerfile.errors import ContainerfileError
from rl.image.containerfile.expansion import Expander, ExpansionError
from rl.image.containerfile.parser import is_old_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rl.image.containerfile.parser import Containerfile, Instruction, Stage

    Found = Iterator["Finding"]

_SECRET = re.compile(r"(?i)(?:_|^)(?:apikey|auth|credentials?|key|passwd|password|pword|secret|token)(?:_|$)")
_PUBLIC = re.compile(r"(?i)(?:_|^)public(?:_|$)")
_ONLY_LAST = ("CMD", "ENTRYPOINT", "HEALTHCHECK")


class Finding:
    """``rule``, what it says here, and the place: ``line`` and ``column``, counted from 1."""

    __slots__ = ("column", "line", "rule", "what")

    def __init__(self, rule: str, what: str, line: int, column: int = 1) -> None:
        self.rule = rule
        self.what = what
        self.line = line
        self.column = column


class Rules:
    """Which rules count (``skip``: all but these; ``everything``: none does), and whether findings are errors."""

    __slots__ = ("error", "everything", "skip")

    def __init__(self, text: str) -> None:
        """*text* as in ``# check=``. Raises UsageError."""
        self.skip: set[str] = set()
        self.everything = self.error = False
        for part in filter(None, (one.strip() for one in text.split(";"))):
            key, equals, value = part.partition("=")
            words = [word.strip() for word in value.split(",")]
            if key == "skip" and equals:
                self.everything = self.everything or words == ["all"]
                self.skip.update(word.lower() for word in words)
            elif key == "error" and value.lower() in ("true", "false", "1", "0"):
                self.error = value.lower() in ("true", "1")
            elif key != "experimental" or not equals:  # no rule here is an experiment
                raise UsageError(f"check: {part!r} is not understood", "write skip=RULE,…;error=true, or skip=all")

    def count(self, finding: Finding) -> bool:
        return not self.everything and finding.rule.lower() not in self.skip


def rules_of(file: Containerfile, given: str | None = None) -> Rules:
    """What the directive of *file* says, or *given* in its place. Raises ContainerfileError, UsageError."""
    if given is not None:
        return Rules(given)
    source = file.source
    text = source.directives.get("check", "")
    try:
        return Rules(text)
    except UsageError as error:
        number = next(n for n, line in enumerate(source.physical, 1) if re.match(r"\s*#\s*check\s*=", line, re.I))
        line = source.physical[number - 1]
        raise ContainerfileError(source.name, number, line.find(text) + 1, line, error.message, error.hint) from None


def check(file: Containerfile, rules: Rules, known: Mapping[str, str]) -> list[Finding]:
    """What the *rules* find in *file*, by line. *known*: the variables that are there without ARG."""
    found = [
        *_empty_lines(file), *_casing(file), *_names(file), *_bases(file, known),
        *(one for instruction in file.arguments for one in _secrets(instruction)),
        *(one for stage in file.stages for one in _stage(file, stage)),
    ]  # fmt: skip
    return sorted((one for one in found if rules.count(one)), key=lambda one: (one.line, one.column))


def _at(instruction: Instruction, rule: str, what: str, offset: int = 0) -> Finding:
    place = instruction.error(what, "", offset)
    return Finding(rule, what, place.line, place.column)


def _instructions(file: Containerfile) -> Iterator[Instruction]:
    yield from file.arguments
    for stage in file.stages:
        yield stage.start
        yield from stage.instructions


def _written(instruction: Instruction) -> str:
    """The keyword as it stands there."""
    return instruction.text[: len(instruction.keyword)]


# the file


def _empty_lines(file: Containerfile) -> Found:
    for number, _ in file.source.notes:
        yield Finding("NoEmptyContinuation", "an empty line continues an instruction; later versions refuse it", number)


def _casing(file: Containerfile) -> Found:
    """All keywords in capitals or all in small letters, as most are."""
    words = [(instruction, _written(instruction)) for instruction in _instructions(file)]
    small = sum(word.islower() for _, word in words)
    majority = "lower" if small > sum(word.isupper() for _, word in words) else "upper"
    for instruction, word in words:
        if word != getattr(word, majority)():
            what = f"{word}: most instructions of this file are in {majority}case"
            yield _at(instruction, "ConsistentInstructionCasing", what)


# FROM


def _names(file: Containerfile) -> Found:
    seen: set[str] = set()
    for stage in file.stages:
        if not stage.name:
            continue
        _, word, name = stage.start.words
        at = stage.start.text.rfind(name)
        if word.isupper() != _written(stage.start).isupper():
            what = f"{_written(stage.start)} and {word} are not written alike"
            yield _at(stage.start, "FromAsCasing", what, stage.start.text.find(word, stage.start.at))
        if name != name.lower():
            yield _at(stage.start, "StageNameCasing", f"the name of stage {name} should be in lowercase", at)
        if stage.name in ("scratch", "context"):
            yield _at(stage.start, "ReservedStageName", f"{name} is a reserved name: a stage should not have it", at)
        if stage.name in seen:
            yield _at(stage.start, "DuplicateStageName", f"there is another stage {name} before this", at)
        seen.add(stage.name)


def _bases(file: Containerfile, known: Mapping[str, str]) -> Found:
    """Names of bases, with what ARG before FROM says by itself."""
    defaults, declared = dict(known), set(known)
    for instruction in file.arguments:
        for word in instruction.words:
            name, equals, value = word.partition("=")
            declared.add(name)
            expanded = _expanded(value, defaults, file)[0] if equals else None
            if expanded is not None:
                defaults[name] = expanded
    for stage in file.stages:
        start = stage.start
        yield from _platform(stage)
        at = start.text.find(stage.base, start.at)
        base, unset = _expanded(stage.base, defaults, file)
        for name in sorted(unset - declared):
            yield _at(start, "UndefinedArgInFrom", f"FROM uses ${name}, and no ARG before it says what that is", at)
        if unset & declared and base is not None and not _is_name(base):
            names = ", ".join(sorted(unset & declared))
            what = f"without --build-arg {names} the base is {base!r}: ARG {names} needs a default"
            yield _at(start, "InvalidDefaultArgInFrom", what, at)


def _platform(stage: Stage) -> Found:
    value = stage.start.flag("platform")
    at = stage.start.text.find("--platform")
    if value in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        what = f"--platform={value} is what FROM does by itself"
        yield _at(stage.start, "RedundantTargetPlatform", what, at)
    elif value and "$" not in value and not any(part in stage.name for part in value.split("/")):
        what = f"--platform={value}: a constant makes the image one for this platform only"
        yield _at(stage.start, "FromPlatformFlagConstDisallowed", what, at)


def _expanded(text: str, variables: Mapping[str, str], file: Containerfile) -> tuple[str | None, set[str]]:
    """(*text* with *variables*, the names that are not among them); None where it cannot be read."""
    expander = Expander(variables, file.source.escape)
    try:
        return expander.word(text), expander.unset
    except ExpansionError:
        return None, set()


def _is_name(text: str) -> bool:
    try:
        reference.parse(text)
    except UsageError:
        return False
    return True


# a stage


def _stage(file: Containerfile, stage: Stage) -> Found:
    last = {one.keyword: one for one in stage.instructions}
    shell = any(one.keyword == "SHELL" for one in stage.instructions)
    absolute = _has_workdir(file, stage)
    for one in stage.instructions:
        if one.keyword in _ONLY_LAST and one is not last[one.keyword]:
            what = f"another {one.keyword} follows in this stage: only the last one counts"
            yield _at(one, "MultipleInstructionsDisallowed", what)
        if one.keyword in ("CMD", "ENTRYPOINT") and one.json is None and one.rest and not shell:
            what = f"{one.keyword} by a shell, to which signals go: a list in JSON, or SHELL, says which is meant"
            yield _at(one, "JSONArgsRecommended", what)
        elif one.keyword == "WORKDIR":
            first = one.rest.strip("\"'")[:1]
            if first not in ("/", "$") and not absolute:
                what = f"WORKDIR {one.rest} depends on the base's; an absolute one should come first"
                yield _at(one, "WorkdirRelativePath", what, one.at)
            absolute = True
        elif one.keyword == "MAINTAINER":
            what = "MAINTAINER is deprecated: LABEL org.opencontainers.image.authors"
            yield _at(one, "MaintainerDeprecated", what)
        elif one.keyword == "EXPOSE":
            yield from _ports(one)
        elif one.keyword in ("ENV", "LABEL") and is_old_form(one):
            yield _at(one, "LegacyKeyValueFormat", f"{one.keyword} with a blank: write {one.keyword} name=value")
        yield from _secrets(one)


def _has_workdir(file: Containerfile, stage: Stage) -> bool:
    """Whether a stage that this one is built upon says where it is."""
    parents = [one for one in file.stages[: stage.number] if one.name and one.name == stage.base.lower()]
    if not parents:
        return False
    return any(one.keyword == "WORKDIR" for one in parents[-1].instructions) or _has_workdir(file, parents[-1])


def _ports(instruction: Instruction) -> Found:
    for word in instruction.words:
        at = instruction.text.find(word, instruction.at)
        if ":" in word.replace(":-", "").replace(":+", "").replace(":?", ""):
            what = f"EXPOSE {word}: ports of the image only; -p of `rl run` publishes them on an address of the host"
            yield _at(instruction, "ExposeInvalidFormat", what, at)
        protocol = word.rpartition("/")[2] if "/" in word else ""
        if protocol and "$" not in protocol and protocol != protocol.lower():
            yield _at(instruction, "ExposeProtoCasing", f"EXPOSE {word}: the protocol should be in lowercase", at)


def _secrets(instruction: Instruction) -> Found:
    if instruction.keyword not in ("ARG", "ENV"):
        return
    for word in instruction.words:
        name = word.partition("=")[0].strip("\"'")
        if _SECRET.search(name) and not _PUBLIC.search(name):
            what = f"{instruction.keyword} {name}: in the image it is no secret; RUN --mount=type=secret keeps it out"
            at = max(instruction.text.find(name, instruction.at), 0)
            yield _at(instruction, "SecretsUsedInArgOrEnv", what, at)
