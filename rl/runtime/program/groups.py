"""The cgroup of a container made by `rl-runtime`: which manager, what becomes of limits that cannot be set."""

from __future__ import annotations

from rl.errors import UnsupportedError
from rl.runtime import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.cgroup import Manager
    from rl.runtime.program.main import Program


class Group:
    """The cgroup of one container; ``path`` is "" where there is none."""

    __slots__ = ("manager", "program", "resources")

    def __init__(self, program: Program, spec: dict[str, Any], container_id: str) -> None:
        linux = spec.get("linux") or {}
        self.program = program
        self.resources: dict[str, Any] = linux.get("resources") or {}
        self.manager = cgroup.manager(program.cgroup_manager, linux.get("cgroupsPath") or "", container_id)

    @property
    def path(self) -> str:
        """Its directory."""
        return self.manager.path

    @property
    def procs_path(self) -> str:
        """The file that takes a pid; "" where :meth:`place` has to be called, or there is no cgroup."""
        return self.manager.procs_path

    @property
    def needs_pid(self) -> bool:
        """Whether the cgroup is made around a process (systemd)."""
        return self.manager.kind == "systemd"

    def prepare(self) -> None:
        """Before the process exists: make it, where that is possible, and set its limits."""
        self.manager.prepare()
        if not self.needs_pid:
            self._limit()

    def place(self, pid: int) -> None:
        """While the process waits: make it around *pid* and set its limits."""
        self.manager.attach(pid)
        self._limit()

    def _limit(self) -> None:
        apply(self.program, self.manager, self.resources)

    def remove(self) -> None:
        """After a failure: kill what is in it and remove it."""
        if self.path:
            remove(self.path)


def apply(program: Program, manager: Manager, resources: dict[str, Any]) -> None:
    """Set *resources*. One that cannot be set is an error; a warning with ``--rootless=true``."""
    refused = manager.apply(resources)
    if refused and program.options.get("rootless") != "true":
        raise UnsupportedError(
            f"linux.resources: {'; '.join(refused)}",
            "remove the limit from config.json; --rootless=true makes this a warning",
        )
    for text in refused:
        program.warn(f"limit not enforced: {text}")
    limit_devices(program, manager.path, resources)


def limit_devices(program: Program, path: str, resources: dict[str, Any]) -> None:
    """The device filter of cgroup *path*, where rules are given."""
    if resources.get("devices"):
        from rl.runtime import devicefilter

        reason = devicefilter.enforce(path, resources["devices"])
        if reason:
            program.warn(f"linux.resources.devices is not enforced: {reason}")


def remove(path: str) -> None:
    """Kill all that is in cgroup *path*, and remove it with those below. Raises RlError."""
    group = cgroup.Cgroup(path)
    group.kill()
    group.remove()
