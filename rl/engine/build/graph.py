"""Which stages a build needs, what each is built upon, and what names in it mean.

Called by rl.engine.build.scheduler. Source: Dockerfile reference, "FROM"; BuildKit's named contexts
(``--build-context``), which count before stages, and these before images.
"""

from __future__ import annotations

import re

from rl.engine.build.runmounts import parse as parse_mount
from rl.engine.build.scopes import Scope, platform_arguments
from rl.errors import UsageError
from rl.image.containerfile.expansion import Expander, ExpansionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.build.settings import Settings
    from rl.image.containerfile import Containerfile, Instruction, Stage

SCRATCH = "scratch"
_IMAGE_PREFIXES = ("docker-image://", "container-image://", "docker://")


class Node:
    """A stage that is needed. ``base``: the number of another one, or -1 and ``image``; ``needs``: those it uses."""

    __slots__ = ("base", "image", "needs", "platform", "stage")

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.base = -1
        self.image = ""
        self.platform = ""
        self.needs: set[int] = set()


class Graph:
    """The stages of *file*. ``known``: what ARG without a default finds; ``nodes``: by number; ``target``: the last.

    Raises ContainerfileError, UsageError.
    """

    def __init__(self, file: Containerfile, settings: Settings) -> None:
        self.file = file
        self.settings = settings
        self.consumed: set[str] = set()
        self.known = self._globals()
        self.target = self._target()
        self.nodes: dict[int, Node] = {}
        waiting = [self.target]
        while waiting:
            number = waiting.pop()
            if number not in self.nodes:
                self.nodes[number] = node = self._node(file.stages[number])
                waiting += node.needs
        if settings.options.get("skip_unused_stages") is False:
            for stage in file.stages[: self.target]:
                if stage.number not in self.nodes:
                    self.nodes[stage.number] = self._node(stage)

    def order(self) -> list[int]:
        """The numbers of the needed stages, each after those that it needs."""
        return sorted(self.nodes)

    def _globals(self) -> dict[str, str]:
        """ARG before FROM, and what is predefined."""
        scope = Scope(platform_arguments(self.settings.platform, self.settings.target), self.settings.build_args)
        scope.env = {}
        found = dict(scope.known)
        for instruction in self.file.arguments:
            for word in instruction.words:
                name, equals, value = word.partition("=")
                try:
                    default = Expander({**scope.known, **scope.variables()}, instruction.source.escape).word(value)
                except ExpansionError as error:
                    raise instruction.error(str(error)) from None
                result = scope.declare(name, default if equals else None)
                if result is not None:
                    found[name] = result
        self.consumed |= scope.consumed
        for name, value in self.settings.build_args.items():
            if name in scope.known:  # --build-arg TARGETARCH=…
                found[name] = value
                self.consumed.add(name)
        return found

    def _target(self) -> int:
        wanted = self.settings.target
        if not wanted:
            return len(self.file.stages) - 1
        stage = self.file.stage(wanted)
        if stage is None:
            names = [one.name for one in self.file.stages if one.name]
            numbers = f"its stages have numbers only, 0 to {len(self.file.stages) - 1}"
            raise UsageError(
                f"--target {wanted}: {self.file.source.name} has no stage of that name",
                f"it has {', '.join(names)}" if names else numbers,
            )
        return stage.number

    def word(self, instruction: Instruction, text: str, at: int | None = None) -> str:
        """*text* with the global variables. Raises ContainerfileError."""
        expander = Expander(self.known, instruction.source.escape)
        try:
            return expander.word(text)
        except ExpansionError as error:
            raise instruction.error(str(error), "", at) from None

    def _node(self, stage: Stage) -> Node:
        node = Node(stage)
        start = stage.start
        base = self.word(start, stage.base)
        replaced = self.settings.options.get("from")
        if replaced and not self._first_image_before(stage) and self.stage_of(base, stage.number) is None:
            base = replaced
        if not base:
            hint = "is a variable in it not set? ARG before FROM sets it"
            raise start.error(f"FROM {stage.base}: the name is empty", hint)
        node.platform = self.word(start, start.flag("platform"))
        other = None if base.lower() in self.settings.contexts else self.stage_of(base, stage.number, start)
        if other is not None:
            node.base = other
            node.needs.add(other)
        else:
            node.image = self.image_of(base)
        for instruction in stage.instructions:
            for origin, at in _origins(instruction):
                found = self.stage_of(self.word(instruction, origin, at), stage.number, instruction)
                if found is not None:
                    node.needs.add(found)
        return node

    def _first_image_before(self, stage: Stage) -> bool:
        """Whether an earlier stage is the first that has an image: --from is about that one alone."""
        return any(
            self.stage_of(self.word(one.start, one.base), one.number) is None
            and self.word(one.start, one.base) != SCRATCH
            for one in self.file.stages[: stage.number]
        )

    def stage_of(self, name: str, before: int, place: Instruction | None = None) -> int | None:
        """The number of the stage that *name* means in stage *before*; None: it means something else."""
        if not name or name.lower() in self.settings.contexts:
            return None
        for stage in reversed(self.file.stages[:before]):
            if stage.name and stage.name == name.lower():
                return stage.number
        if place is not None and place.keyword != "FROM" and name.isdecimal():
            if int(name) < before:
                return int(name)
            hint = f"stages before it are 0 to {before - 1}" if before else "it is the first"
            raise place.error(f"--from={name}: stage {name} is not before this one", hint, 0)
        if place is None or place.keyword == "FROM" or name.isdecimal():
            return None
        later = self.file.stage(name)
        if later is not None:
            what = "itself" if later.number == before else f"stage {name}, which comes later"
            raise place.error(f"--from={name}: the stage needs {what}", "a stage can use those before it only", 0)
        return None

    def image_of(self, name: str) -> str:
        """The image that *name* means where it is no stage: a named context may say another one."""
        value = self.settings.contexts.get(name.lower(), "")
        for prefix in _IMAGE_PREFIXES:
            if value.startswith(prefix):
                return value.removeprefix(prefix)
        if value.startswith("oci-layout://"):
            return "oci:" + value.removeprefix("oci-layout://")
        return name

    def directory_of(self, name: str) -> str:
        """The directory, archive, URL that a named context is; "" for an image or a stage."""
        value = self.settings.contexts.get(name.lower(), "")
        return "" if value.startswith((*_IMAGE_PREFIXES, "oci-layout://")) else value


def _origins(instruction: Instruction) -> list[tuple[str, int]]:
    """(what the instruction copies or mounts from, where that stands)."""
    found = []
    for flag in instruction.flags:
        if instruction.keyword == "COPY" and flag.name == "from":
            found.append((flag.value, flag.at))
        elif flag.name == "mount" and re.search(r"(^|,)from=", flag.value):
            try:
                found.append((parse_mount(flag.value, "/").origin, flag.at))
            except UsageError as error:
                if "$" not in flag.value:
                    raise instruction.error(error.message, error.hint, flag.at) from None
                found.append((re.sub(r"^(.*,)?from=([^,]*).*$", r"\2", flag.value), flag.at))
    if instruction.keyword == "ONBUILD":
        return []
    return [(origin, at) for origin, at in found if origin]
