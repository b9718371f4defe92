"""``--filter`` of the container verbs, podman-ps(1): which containers a verb is about.

Different keys must all hold; of one key's values one is enough, but all of ``label``, ``annotation`` and negations.
A filter reads no more than it needs: ``id`` and ``name`` no record at all, and the state is read only for what passed
the filters that look at the configuration. Called through :mod:`rl.engine.selection`.
"""

from __future__ import annotations

import os

from rl.engine import containers
from rl.engine.times import epoch_ns, moment_ns
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rl.config.model import ContainerConfig, ContainerState
    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Test = Callable[["Candidate"], bool]
    Make = Callable[[Engine, list[str]], Test]

STATUSES = ("created", "initialized", "running", "stopped", "stopping", "paused", "restarting", "exited", "removing",
            "unknown")
#: States of containers that have a monitor, so those that the run directory lists.
MONITORED = frozenset(("initialized", "running", "stopping", "paused", "restarting"))
#: What `rl container prune` takes.
PRUNE = ("label", "label!", "annotation", "annotation!", "until")


class Candidate:
    """A container whose records are read when somebody asks, once. Reading raises as rl.engine.containers does."""

    __slots__ = ("_config", "_state", "id", "paths")

    def __init__(self, paths: Paths, container_id: str) -> None:
        self.paths = paths
        self.id = container_id
        self._config: ContainerConfig | None = None
        self._state: ContainerState | None = None

    @property
    def config(self) -> ContainerConfig:
        if self._config is None:
            self._config = containers.read_config(self.paths, self.id)
        return self._config

    @property
    def state(self) -> ContainerState:
        if self._state is None:
            self._state = containers.read_state(self.paths, self.id)
        return self._state

    @property
    def status(self) -> str:
        return self.state.get("status", "created")

    def load(self) -> None:
        """Read what was not read yet: from here on nothing raises."""
        _ = (self.config, self.state)


class Filters:
    """The filters of one command line.

    ``any_state``: they ask about states themselves, so containers count that do not run; ``only_monitored``: none but
    containers that have a monitor can pass. Raises UsageError for a key or a value that is not known,
    NoSuchContainerError for a container that a value names.
    """

    __slots__ = ("_tests", "any_state", "only_monitored")

    def __init__(self, engine: Engine, filters: Sequence[str], known: Sequence[str] = ()) -> None:
        values: dict[str, list[str]] = {}
        for text in filters:
            key, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f'invalid filter "{text}"', "write it as KEY=VALUE: --filter status=exited")
            if key not in (known or _FILTERS):
                words = known or [name for name in _FILTERS if not name.endswith("!")]
                raise UsageError(f"{key} is an invalid filter", f"known filters: {', '.join(words)}")
            values.setdefault(key, []).append(value)
        # in the order of the table: what costs least comes first
        self._tests = [_FILTERS[key](engine, values[key]) for key in _FILTERS if key in values]
        statuses = values.get("status", [])
        self.any_state = bool(statuses)
        self.only_monitored = bool(statuses) and MONITORED.issuperset(statuses)

    def match(self, candidate: Candidate) -> bool:
        """Whether it passes all of them."""
        return all(test(candidate) for test in self._tests)


def matcher(value: str) -> Callable[[str], bool]:
    """Whether a text contains *value*, a regular expression; ``re`` is imported only for a real one."""
    if all(c.isalnum() or c in "_-/:" for c in value):
        return lambda text: value in text
    import re

    try:
        pattern = re.compile(value)
    except re.error as error:
        raise UsageError(f"filter {value!r} is not a regular expression: {error}") from None
    return lambda text: pattern.search(text) is not None


# --- what reads no record


def _id(engine: Engine, values: list[str]) -> Test:
    """The beginning of an id; anything that is not one is a regular expression."""
    starts = tuple(value for value in values if containers.HEX.issuperset(value))
    patterns = [matcher(value) for value in values if value not in starts]

    def test(candidate: Candidate) -> bool:
        return candidate.id.startswith(starts) or any(matches(candidate.id) for matches in patterns)

    return test


def _name(engine: Engine, values: list[str]) -> Test:
    patterns = [matcher(value.replace("/", "")) for value in values]
    directory = engine.paths.names
    found = set()
    for name in os.listdir(directory):
        if any(matches(name) for matches in patterns):
            try:
                found.add(os.path.basename(os.readlink(f"{directory}/{name}")))
            except OSError:
                continue  # removed this moment
    return lambda candidate: candidate.id in found


# --- what looks at the configuration


def label_matches(labels: dict[str, str], value: str) -> bool:
    """``key`` or ``key=value``; a trailing ``*`` in the value stands for anything."""
    key, equals, wanted = value.partition("=")
    if key not in labels:
        return False
    if not equals:
        return True
    return labels[key].startswith(wanted[:-1]) if wanted.endswith("*") else labels[key] == wanted


def _pairs(field: str, wanted: bool) -> Make:
    def make(engine: Engine, values: list[str]) -> Test:
        def test(candidate: Candidate) -> bool:
            pairs: dict[str, str] = candidate.config.get(field) or {}  # type: ignore[assignment]
            return all(label_matches(pairs, value) is wanted for value in values)

        return test

    return make


def _ancestor(engine: Engine, values: list[str]) -> Test:
    """An image by name or id, or one that others were built on: their first layers are its own."""
    bases = [layers for layers in (_layers(engine, value) for value in values) if layers]
    tests = [_image_test(value) for value in values]

    def test(candidate: Candidate) -> bool:
        config = candidate.config
        image, image_id = config.get("image", ""), config.get("image_id", "")
        own = config.get("layers", [])
        return any(matches(image, image_id) for matches in tests) or any(
            len(own) > len(base) and own[: len(base)] == base for base in bases
        )

    return test


def _layers(engine: Engine, image: str) -> list[str]:
    from rl.image import store

    try:
        return store.find(engine.paths, image)["layers"]
    except RlError:
        return []


def _image_test(value: str) -> Callable[[str, str], bool]:
    has_tag = ":" in value.rpartition("/")[2] or "@" in value
    start = value.removeprefix("sha256:")
    pattern = matcher(value) if any(c in "^$*+?[](){}|\\" for c in value) else None

    def test(image: str, image_id: str) -> bool:
        if image_id and len(start) >= 3 and image_id.startswith(start):
            return True
        if pattern:
            return pattern(image)
        name = image if has_tag else image.partition("@")[0].rpartition(":")[0] or image
        return bool(name) and (name == value or name.endswith("/" + value))

    return test


def _compared_to(after: bool) -> Make:
    """Of several containers the one created first counts, as in Podman."""

    def make(engine: Engine, values: list[str]) -> Test:
        paths = engine.paths
        others = [containers.read_config(paths, containers.find(paths, value))["created"] for value in values]
        limit = min(others)
        if after:
            return lambda candidate: candidate.config["created"] > limit
        return lambda candidate: candidate.config["created"] < limit

    return make


def _until(engine: Engine, values: list[str]) -> Test:
    try:
        limits = [moment_ns(value) for value in values]
    except UsageError as error:
        raise UsageError(f'failed to parse value as time or duration: "{values[0]}"', error.hint) from None
    if len(limits) > 1:
        raise UsageError("until can be given only once", "leave the others out")
    return lambda candidate: epoch_ns(candidate.config["created"]) < limits[0]


def _volume(engine: Engine, values: list[str]) -> Test:
    """``NAME``, ``DESTINATION``, a source on the host, or ``SOURCE:DESTINATION``."""

    def test(candidate: Candidate) -> bool:
        for spec in candidate.config.get("mounts", []):
            source, destination = spec.get("source", ""), spec.get("destination", "")
            if any(value in (source, destination, f"{source}:{destination}") for value in values):
                return True
        return False

    return test


def _pod(engine: Engine, values: list[str]) -> Test:
    """A pod's name, or the beginning of its id."""

    def test(candidate: Candidate) -> bool:
        pod = candidate.config.get("pod", "")
        name = candidate.config.get("pod_name", "")
        return bool(pod) and any(value == name or pod.startswith(value) for value in values)

    return test


def _command(engine: Engine, values: list[str]) -> Test:
    """The first word of the command."""
    patterns = [matcher(value) for value in values]

    def test(candidate: Candidate) -> bool:
        words = candidate.config.get("arguments") or candidate.config.get("command") or [""]
        return any(matches(words[0]) for matches in patterns)

    return test


_POLICIES = ("no", "none", "always", "on-failure", "unless-stopped")


def _policy_of(candidate: Candidate) -> str:
    return containers.restart_policy(candidate.paths, candidate.config)["policy"]


def _restart_policy(engine: Engine, values: list[str]) -> Test:
    wrong = [value for value in values if value not in _POLICIES]
    if wrong:
        what = "invalid restart policy" if len(wrong) == 1 else "invalid restart policies"
        raise UsageError(f"{', '.join(wrong)} {what}", f"use one of {', '.join(_POLICIES)}")
    wanted = {"no" if value == "none" else value for value in values}
    return lambda candidate: _policy_of(candidate) in wanted


# --- what looks at the state


def _should_start(engine: Engine, values: list[str]) -> Test:
    """Whether its restart policy starts it with the host."""
    from rl.engine.spec.values import boolean

    wanted = boolean(values[-1], "filter should-start-on-boot")

    def test(candidate: Candidate) -> bool:
        policy = _policy_of(candidate)
        stopped = policy == "unless-stopped" and bool(candidate.state.get("stopped_by_user"))
        return (policy == "always" or (policy == "unless-stopped" and not stopped)) is wanted

    return test


def _network(engine: Engine, values: list[str]) -> Test:
    """How it is connected; ``container:NAME`` for those that use that container's network."""
    from rl.engine.ps import networks

    wanted = set()
    for value in values:
        kind, colon, other = value.partition(":")
        try:
            wanted.add(f"container:{containers.find(engine.paths, other)}" if colon and kind == "container" else value)
        except RlError:
            continue  # as in Podman: no network of that name, no container in it

    def test(candidate: Candidate) -> bool:
        asked = candidate.config.get("network", {}).get("mode", "default")
        return asked in wanted or not wanted.isdisjoint(networks(candidate.config, candidate.state))

    return test


def _status(engine: Engine, values: list[str]) -> Test:
    for value in values:
        if value not in STATUSES:
            raise UsageError(f"unknown container state: {value}: invalid argument", f"use one of {', '.join(STATUSES)}")
    wanted = {"exited" if value == "stopped" else value for value in values}
    return lambda candidate: candidate.status in wanted


def _exited(engine: Engine, values: list[str]) -> Test:
    codes = set()
    for value in values:
        try:
            codes.add(int(value))
        except ValueError:
            raise UsageError(f'exited code out of range: "{value}" is not a number', "--filter exited=137") from None
    return lambda candidate: candidate.status == "exited" and candidate.state.get("exit_code") in codes


def _health(engine: Engine, values: list[str]) -> Test:
    """``starting``, ``healthy``, ``unhealthy``, or ``none`` for containers without a health check."""
    from rl.engine import healthcheck

    words = (*healthcheck.STATUSES, "none")
    for value in values:
        if value not in words:
            raise UsageError(f"{value} is not a health status", f"use one of {', '.join(words)}")
    return lambda candidate: (healthcheck.status(candidate.paths, candidate.config) or "none") in values


#: In the order in which they are asked.
_FILTERS: dict[str, Make] = {
    "id": _id,
    "name": _name,
    "label": _pairs("labels", True),
    "label!": _pairs("labels", False),
    "annotation": _pairs("annotations", True),
    "annotation!": _pairs("annotations", False),
    "ancestor": _ancestor,
    "before": _compared_to(after=False),
    "since": _compared_to(after=True),
    "until": _until,
    "volume": _volume,
    "pod": _pod,
    "command": _command,
    "restart-policy": _restart_policy,
    "should-start-on-boot": _should_start,
    "network": _network,
    "status": _status,
    "exited": _exited,
    "health": _health,
}
