"""Containers that need others: by --requires, or because they join another's namespaces (``container:NAME``).

A container is started after those it needs, and removed before them. Called by create, run, start, rm and inspect.
"""

from __future__ import annotations

import os

from rl.config.jsonio import loads
from rl.engine import containers
from rl.errors import NoSuchContainerError, RlError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths


def requires(paths: Paths, names: list[str]) -> list[str]:
    """The ids of the containers that ``--requires`` names. Raises NoSuchContainerError, AmbiguousNameError."""
    found = []
    for name in names:
        try:
            found.append(containers.find(paths, name))
        except NoSuchContainerError as error:
            what = f'"{name}" is not a valid container, cannot be used as a dependency: {error.message}'
            raise UsageError(what, error.hint) from None
    return list(dict.fromkeys(found))


def to_start(paths: Paths, config: ContainerConfig) -> list[str]:
    """The ids of the containers that have to be started before it, in the order in which they must be."""
    order: list[str] = []
    _add(paths, config, order, [])
    return order


def _add(paths: Paths, config: ContainerConfig, order: list[str], way: list[str]) -> None:
    if config["id"] in way:
        circle = " -> ".join(each[:12] for each in [*way[way.index(config["id"]) :], config["id"]])
        raise StateError(f"containers need each other: {circle}", "remove one of them")
    for other in containers.needs(config):
        if other in order:
            continue
        try:
            needed = containers.read_config(paths, other)
        except NoSuchContainerError:
            raise NoSuchContainerError(
                f"container {config['name']} needs container {other[:12]}, which does not exist",
                "its files are broken or were removed by hand: create the container again",
            ) from None
        _add(paths, needed, order, [*way, config["id"]])
        if containers.read_state(paths, other).get("status") not in containers.LIVE:
            order.append(other)


class Dependents:
    """Which containers need which, as it was when first asked; records that need nobody are not parsed."""

    __slots__ = ("_needed_by", "_paths")

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._needed_by: dict[str, list[str]] | None = None

    def _map(self) -> dict[str, list[str]]:
        if self._needed_by is None:
            self._needed_by = {}
            for container_id in containers.ids(self._paths):
                for needed in _needs(self._paths, container_id):
                    self._needed_by.setdefault(needed, []).append(container_id)
        return self._needed_by

    def of(self, container_id: str) -> list[str]:
        """The ids of the containers that need it and still exist."""
        return [each for each in self._map().get(container_id, []) if os.path.isdir(self._paths.container(each))]

    def all_of(self, container_id: str) -> list[str]:
        """Those, those that need them, and so on: the order in which they can be removed."""
        found: list[str] = []

        def walk(one: str, way: tuple[str, ...]) -> None:
            for other in self.of(one):
                if other not in found and other not in way:
                    walk(other, (*way, other))
                    found.append(other)

        walk(container_id, (container_id,))
        return found

    def removal_order(self, ids: list[str]) -> list[str]:
        """*ids*, each after those among them that need it."""
        if not self._map():
            return ids
        order: list[str] = []
        for container_id in ids:
            for each in (*self.all_of(container_id), container_id):
                if each in ids and each not in order:
                    order.append(each)
        return order

    def check(self, container_id: str) -> None:
        """Raises StateError where a container that exists needs this one."""
        others = self.of(container_id)
        if others:
            raise StateError(
                f"container {container_id} has dependent containers which must be removed before it: "
                f"{', '.join(others)}: container already exists",
                f"`rl rm --depend {container_id[:12]}` removes them too",
            )


def _needs(paths: Paths, container_id: str) -> list[str]:
    try:
        fd = os.open(f"{paths.container(container_id)}/config.json", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        raw = b""
        while chunk := os.read(fd, 1 << 16):
            raw += chunk
    finally:
        os.close(fd)
    if b'"container:' not in raw and b'"requires":' not in raw:
        return []
    try:
        return containers.needs(loads(raw.decode()))
    except (ValueError, RlError, AttributeError):
        return []  # a damaged record: its own removal tells
