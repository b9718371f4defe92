"""A stage, instruction by instruction: what each means, its place in the cache, what it does to image and files.

A :class:`Walk` runs twice over the same code: in the command line's own process as far as the cache goes, where nothing
is mounted; and in a worker from there on, which writes files (:class:`Hands`). Both know a step by its key, so who
takes a step from the cache never depends on where it runs.

Source: Dockerfile reference; the forms of ``created_by`` are Buildah's, which `podman history` shows.
"""

from __future__ import annotations

import posixpath
import re

from rl.engine.build import commands
from rl.engine.build.cache import key_of
from rl.engine.build.scopes import Scope
from rl.engine.containers import now
from rl.errors import RlError, UsageError
from rl.image.containerfile import configure
from rl.image.containerfile.expansion import Expander, ExpansionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from rl.engine.build.cache import Cache, Entry
    from rl.engine.build.gathering import Tree
    from rl.engine.build.origins import Origins
    from rl.engine.build.remotecache import Source
    from rl.engine.build.running import RunSpec
    from rl.engine.build.settings import Settings
    from rl.engine.build.state import State
    from rl.image.containerfile import Instruction

    class Hands(Protocol):
        """What a worker does for a walk."""

        def write(self, state: State, change: Callable[[str], object]) -> str:
            """Mount the files of *state*, let *change* write to them (it gets their path); the new snapshot."""

        def tree(self, origin: str) -> Tree:
            """The files of a stage or an image, to copy from."""

        def path(self, origin: str) -> str:
            """Where those files are mounted."""

        def run(self, root: str, spec: RunSpec) -> None:
            """Run a command there. Raises StepFailedError."""

        def debug(self, state: State, spec: RunSpec) -> None:
            """Let the caller look around in the files of *state*; what is changed there is lost."""

    Say = Callable[..., None]


class Step:
    """An instruction, understood. ``label``: for history; ``key``: what it is made of, beside its parent; ``change``:
    of the configuration; ``files``: writes files, None: it writes none. ``second``: a key by content that a worker
    can find where ``key`` is of the origin only."""

    __slots__ = ("change", "files", "key", "label", "second", "shown")

    def __init__(self, label: str, key: list[Any], shown: str = "") -> None:
        self.label = label
        self.shown = shown
        self.key = key
        self.change: Callable[[dict[str, Any]], object] = lambda config: None
        self.files: Callable[[Hands, State], str] | None = None
        self.second: Callable[[Hands], list[Any]] | None = None


class Incomplete(Exception):
    """A stage that this one needs is not built yet."""


class Walk:
    """One stage. ``state``: where it stands; ``index``: the next instruction. *say* is told what happens."""

    def __init__(
        self, settings: Settings, cache: Cache, origins: Origins, instructions: list[Instruction], state: State,
        known: dict[str, str], say: Say,
    ) -> None:
        self.settings = settings
        self.cache = cache
        self.origins = origins
        self.instructions = instructions
        self.state = state
        self.scope = Scope(known, settings.build_args)
        self.scope.env = configure.env_of(state.config)
        self.index = 0
        self.misses = 0
        self.new: list[str] = []  # snapshots made here
        self.trail: list[tuple[str, Entry]] = []  # the steps that wrote files, by their keys
        self.remote: Source | None = None  # --cache-from
        self.cmd_given = False
        self._say = say

    def tell_by(self, say: Say) -> None:
        """From here on *say* is told."""
        self._say = say

    def advance(self, hands: Hands | None) -> bool:
        """Go on to the end, or, without *hands*, to the first step that has to write files; whether it is the end."""
        while self.index < len(self.instructions):
            instruction = self.instructions[self.index]
            try:
                if not self._one(instruction, hands):
                    return False
            except ExpansionError as error:
                raise instruction.error(str(error)) from None
            self.index += 1
        return True

    def _one(self, instruction: Instruction, hands: Hands | None) -> bool:
        try:
            step = _HANDLERS[instruction.keyword](self, instruction)
            key = key_of(self.state.key, step.key)
        except Incomplete:
            if hands is None:
                return False
            raise
        found = None if self.settings.no_cache else self.cache.find(key)
        if found is None and step.second and hands and not self.settings.no_cache:
            second = key_of(self.state.key, step.second(hands))
            found = self.cache.find(second)
            if found:
                self.cache.put(key, found["created"], found["snapshot"], step.label)
        if found is None and step.files and hands is None:
            found = self.remote.find(key) if self.remote and not self.settings.no_cache else None
            if found is None:
                return False
        self._say("step", number=self.index, text=step.shown or instruction.text, cached=found is not None)
        if found:
            created, snapshot = found["created"], found["snapshot"]
            step.label = found.get("label") or step.label
            self.cache.touch(key)
        else:
            self.misses += 1
            snapshot = step.files(hands, self.state) if step.files and hands else ""
            created = now()
            self._remember(key, step, created, snapshot, hands)
        if snapshot:
            label = step.label if step.second else ""
            self.trail.append((key, {"created": created, "snapshot": snapshot, "label": label}))
        self._take(step, key, created, snapshot)
        return True

    def _remember(self, key: str, step: Step, created: str, snapshot: str, hands: Hands | None) -> None:
        label = step.label if step.second else ""
        self.cache.put(key, created, snapshot, label)
        if step.second and hands:
            self.cache.put(key_of(self.state.key, step.second(hands)), created, snapshot, label)
        if snapshot:
            self.new.append(snapshot)

    def _take(self, step: Step, key: str, created: str, snapshot: str) -> None:
        state = self.state
        step.change(state.config)
        self.scope.env = configure.env_of(state.config)
        entry: dict[str, Any] = {"created": created, "created_by": step.label}
        if state.base_name and self.index == 0:
            entry["comment"] = f"FROM {state.base_name}"
        if not snapshot:
            entry["empty_layer"] = True
        state.history.append(entry)
        if snapshot:
            state.snapshots.append(snapshot)
            state.key = key_of(key, snapshot)
        else:
            state.key = key
        state.created = created

    # words

    def expander(self, instruction: Instruction, *, raw: bool = False) -> Expander:
        return Expander(self.scope.variables(), instruction.source.escape, raw=raw)

    def word(self, instruction: Instruction, text: str) -> str:
        return self.expander(instruction).word(text)

    def words(self, instruction: Instruction) -> list[str]:
        """All operands, each expanded and taken out of its quotes."""
        expander = self.expander(instruction)
        return [expander.word(word) for word in instruction.words]

    def pairs(self, instruction: Instruction) -> dict[str, str]:
        """ENV and LABEL: names and values, all with the variables as they were before."""
        expander = self.expander(instruction)
        found = {}
        for word in instruction.words:
            name, _, value = word.partition("=")
            found[expander.word(name)] = expander.word(value)
        return found

    def workdir(self) -> str:
        return self.state.config.get("WorkingDir") or "/"

    def absolute(self, path: str) -> str:
        """*path* from the working directory, a slash at its end kept."""
        whole = posixpath.normpath(posixpath.join(self.workdir(), path))
        whole = "/" + whole.lstrip("/")
        directory = path.endswith(("/", "/.", "/..")) or path in (".", "..", "")
        return whole.rstrip("/") + "/" if directory else whole


# --------------------------------------------------------------------------- configuration only


def nop(instruction: Instruction, rest: str | None = None) -> str:
    """``created_by`` of an instruction that runs nothing."""
    return f"/bin/sh -c #(nop) {instruction.text if rest is None else f'{instruction.keyword} {rest}'}"


def _changing(
    instruction: Instruction, material: Any, change: Callable[[dict[str, Any]], object], label: str = ""
) -> Step:
    step = Step(label or nop(instruction), [instruction.keyword, material])
    step.change = change
    return step


def _arg(walk: Walk, instruction: Instruction) -> Step:
    for word in instruction.words:
        name, equals, value = word.partition("=")
        name = walk.word(instruction, name)
        if not re.fullmatch(r"[^\s=]+", name):
            raise UsageError(f"ARG {word}: not a name")
        walk.scope.declare(name, walk.word(instruction, value) if equals else None)
    names = sorted(name for name, value in walk.scope.arguments.items() if value is not None)
    return _changing(instruction, "", lambda config: None, nop(instruction, " ".join(names)))


def _env(walk: Walk, instruction: Instruction) -> Step:
    new = walk.pairs(instruction)
    if "" in new:
        raise instruction.error("ENV: a name is empty")
    return _changing(instruction, new, lambda config: configure.set_env(config, new))


def _label(walk: Walk, instruction: Instruction) -> Step:
    new = walk.pairs(instruction)
    return _changing(instruction, new, lambda config: configure.set_labels(config, new))


def _expose(walk: Walk, instruction: Instruction) -> Step:
    words = walk.expander(instruction).words(" ".join(instruction.words))

    def change(config: dict[str, Any]) -> None:
        try:
            configure.set_ports(config, words)
        except ValueError as error:
            hint = "write it as 80, 53/udp or 8000-8010/tcp"
            raise instruction.error(f"EXPOSE {error}: not a port", hint) from None

    change({})
    return _changing(instruction, words, change)


def _volume(walk: Walk, instruction: Instruction) -> Step:
    expander = walk.expander(instruction)
    paths = [expander.word(word) for word in instruction.words] if instruction.json is not None else expander.words(
        " ".join(instruction.words))
    if not all(paths):
        raise instruction.error("VOLUME: a path is empty")
    return _changing(instruction, paths, lambda config: configure.set_volumes(config, paths))


def _set(key: str) -> Callable[[Walk, Instruction], Step]:
    def handler(walk: Walk, instruction: Instruction) -> Step:
        value = walk.word(instruction, instruction.rest)
        if key == "StopSignal":
            from rl.config.signals import parse_signal

            try:
                parse_signal(value)
            except RlError as error:
                raise instruction.error(error.message, error.hint) from None

        def change(config: dict[str, Any]) -> None:
            config[key] = value

        return _changing(instruction, value, change)

    return handler


def _maintainer(walk: Walk, instruction: Instruction) -> Step:
    def change(config: dict[str, Any]) -> None:
        walk.state.document["author"] = instruction.rest

    return _changing(instruction, instruction.rest, change)


def _shell(walk: Walk, instruction: Instruction) -> Step:
    words = list(instruction.json or [])

    def change(config: dict[str, Any]) -> None:
        config["Shell"] = words

    return _changing(instruction, words, change)


def _command(walk: Walk, instruction: Instruction) -> Step:
    words = instruction.json
    if words is None:
        words = [*configure.shell_of(walk.state.config), instruction.rest] if instruction.rest else []

    def change(config: dict[str, Any]) -> None:
        if instruction.keyword == "CMD":
            walk.cmd_given = True
            configure.set_command(config, "Cmd", words or None)
            return
        configure.set_command(config, "Entrypoint", words or None)
        if not walk.cmd_given:
            config.pop("Cmd", None)  # as the reference says: the base image's arguments were for its own program

    return _changing(instruction, words, change)


_NANOSECONDS = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod",
                "start-interval": "StartInterval"}


def _healthcheck(walk: Walk, instruction: Instruction) -> Step:
    from rl.engine.times import duration_ns

    check: dict[str, Any] = {"Test": list(instruction.words)}
    for flag in instruction.flags:
        value = walk.word(instruction, flag.value)
        try:
            if flag.name == "retries":
                if not value.isdecimal():
                    raise UsageError(f"--retries={value}: not a number")
                check["Retries"] = int(value)
                continue
            number = duration_ns(value)
        except RlError as error:
            raise instruction.error(error.message, error.hint, flag.at) from None
        if 0 < number < 1_000_000:
            raise instruction.error(f"--{flag.name}={value}: less than a millisecond", "", flag.at)
        check[_NANOSECONDS[flag.name]] = number
    check = {key: value for key, value in check.items() if value}

    def change(config: dict[str, Any]) -> None:
        config["Healthcheck"] = check

    return _changing(instruction, check, change)


def _onbuild(walk: Walk, instruction: Instruction) -> Step:
    def change(config: dict[str, Any]) -> None:
        config["OnBuild"] = [*(config.get("OnBuild") or []), instruction.rest]

    return _changing(instruction, instruction.rest, change)


# --------------------------------------------------------------------------- files


def _workdir(walk: Walk, instruction: Instruction) -> Step:
    path = walk.word(instruction, instruction.rest)
    if not path:
        raise instruction.error("WORKDIR: the path is empty")
    whole = posixpath.normpath(posixpath.join(walk.workdir(), path))
    return _changing(instruction, whole, lambda config: configure.set_workdir(config, path))


def _run(walk: Walk, instruction: Instruction) -> Step:
    return commands.run(walk, instruction)


def _copy(walk: Walk, instruction: Instruction) -> Step:
    from rl.engine.build import copies

    return copies.copy(walk, instruction)


_HANDLERS: dict[str, Callable[[Walk, Instruction], Step]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _command,
    "COPY": _copy,
    "ENTRYPOINT": _command,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _set("StopSignal"),
    "USER": _set("User"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
