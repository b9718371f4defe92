"""rl stats: what containers use of processor, memory, network and disks.

Each figure comes from the container's cgroup where that has it; where there is none, or not the controller, from /proc:
all processes of the container together. Network counters are those of its network namespace.

Called by the command line. Source: podman-stats(1); kernel Documentation/admin-guide/cgroup-v2.rst; proc(5).
"""

from __future__ import annotations

import os
import time

from rl.engine import containers, usage
from rl.engine.times import epoch_ns
from rl.errors import CorruptRecordError, NoSuchContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from rl.config.model import ContainerConfig, ContainerState
    from rl.engine.context import Engine

    class Sample(TypedDict):
        """What one container uses. Sizes in bytes, times in nanoseconds, percentages of one processor."""

        id: str
        name: str
        cpu: float  # since the sample before; the first one: since the start
        average: float  # since the start
        cpu_time: int
        cpu_system: int  # the kernel's part of it
        taken: int  # ns since 1970
        memory: int
        memory_limit: int  # the host's memory where there is no other
        net_input: int
        net_output: int
        block_input: int
        block_output: int
        pids: int


class Sampler:
    """Takes samples of the same containers again and again.

    *names*: these containers, running or not; else all that run at the time of each sample, with *all* the others too.
    Raises NoSuchContainerError, AmbiguousNameError.
    """

    __slots__ = ("_all", "_before", "_engine", "_ids")

    def __init__(self, engine: Engine, names: list[str], all: bool = False) -> None:
        self._engine = engine
        self._ids = [containers.find(engine.paths, name) for name in names]
        self._all = all
        self._before: dict[str, tuple[int, int]] = {}  # when and how much processor time, at the sample before

    def sample(self) -> list[Sample]:
        """What they use now, in the order of their names on the command line, else of their creation.

        One that has ended uses nothing; one that was removed is left out.
        """
        found: list[tuple[str, ContainerConfig, ContainerState]] = []
        for container_id in self._ids or containers.ids(self._engine.paths):
            try:
                state = containers.read_state(self._engine.paths, container_id)
                if self._ids or self._all or state.get("status") in containers.LIVE:
                    config = containers.read_config(self._engine.paths, container_id)
                    found.append((config.get("created", ""), config, state))
            except (NoSuchContainerError, CorruptRecordError):
                continue
        if not self._ids:
            found.sort(key=lambda item: item[0])
        table = usage.Processes()
        return [self._one(config, state, table) for _, config, state in found]

    def gone(self) -> bool:
        """Whether all of the named containers were removed."""
        return bool(self._ids) and not any(os.path.isdir(self._engine.paths.container(one)) for one in self._ids)

    def _one(self, config: ContainerConfig, state: ContainerState, table: usage.Processes) -> Sample:
        now = time.time_ns()
        sample: Sample = {
            "id": config["id"], "name": config["name"], "cpu": 0.0, "average": 0.0, "cpu_time": 0, "cpu_system": 0,
            "taken": now, "memory": 0, "memory_limit": 0, "net_input": 0, "net_output": 0, "block_input": 0,
            "block_output": 0, "pids": 0,
        }  # fmt: skip
        pid = state.get("pid", 0)
        if state.get("status") not in containers.LIVE or not pid:
            self._before.pop(config["id"], None)
            return sample
        used = usage.of_container(pid, state.get("cgroup", ""), config.get("pid_mode", "private"), table)
        sample.update(used)  # type: ignore[typeddict-item]
        began = epoch_ns(state.get("started", "")) or now
        when, before = self._before.get(config["id"], (began, 0))
        if before > sample["cpu_time"]:
            when, before = began, 0  # it was started again
        self._before[config["id"]] = (now, sample["cpu_time"])
        sample["cpu"] = _percent(sample["cpu_time"] - before, now - when)
        sample["average"] = _percent(sample["cpu_time"], now - began)
        return sample


def _percent(used: int, passed: int) -> float:
    return 100.0 * used / passed if used > 0 and passed > 0 else 0.0


def stats(engine: Engine, names: list[str], *, all: bool = False) -> list[dict[str, Any]]:
    """One sample of *names*, or of all running containers; see :class:`Sampler`."""
    return [dict(sample) for sample in Sampler(engine, names, all).sample()]
