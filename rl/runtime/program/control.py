"""pause, resume, update, events: what goes through a running container's cgroup."""

from __future__ import annotations

import os
import select
import sys
import time

from rl.config.jsonio import dumps, loads, read_json
from rl.errors import RlError, StateError, UnsupportedError, UsageError
from rl.runtime import cgroup, validate
from rl.runtime.program import groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record


def _group(record: Record, verb: str) -> cgroup.Cgroup:
    path = record.cgroup
    if not path:
        raise UnsupportedError(
            f"{verb} container {record.id}: it has no cgroup", "`rl info` tells why; limits and freezing need cgroup v2"
        )
    return cgroup.Cgroup(path)


def pause(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Freeze all processes of a running container."""
    _freeze(program, operands[0], "pause", ("running", "created"))
    return 0


def resume(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Let the processes of a paused container go on."""
    _freeze(program, operands[0], "resume", ("paused",))
    return 0


def _freeze(program: Program, container_id: str, verb: str, allowed: tuple[str, ...]) -> None:
    record = program.store().locked(container_id)
    try:
        status = record.status
        if status not in allowed:
            raise StateError(f"container {container_id} is {status}: cannot {verb} it")
        group = _group(record, verb)
        if verb == "pause":
            group.freeze()
        else:
            group.thaw()
    finally:
        record.release()


#: option: (part of linux.resources, key)
_LIMITS = {
    "blkio-weight": ("blockIO", "weight"), "cpu-period": ("cpu", "period"), "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"), "cpu-share": ("cpu", "shares"), "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"), "cpu-idle": ("cpu", "idle"), "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"), "memory": ("memory", "limit"), "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"), "pids-limit": ("pids", "limit"),
}  # fmt: skip


def update(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Change limits live: those that are given, all others stay."""
    resources: dict[str, Any] = _document(options["resources"]) if "resources" in options else {}
    for option, (part, key) in _LIMITS.items():
        if option in options:
            resources.setdefault(part, {})[key] = options[option]
    if not resources:
        raise UsageError("update: no limit given", "see: rl-runtime update --help")
    validate.check_resources(resources)
    record = program.store().locked(operands[0])
    try:
        status = record.status
        if status not in ("created", "running", "paused"):
            raise StateError(f"container {record.id} is {status}: its limits cannot be changed")
        group = _group(record, "update")
        refused = group.apply(resources)
        if refused:
            raise UnsupportedError(f"update container {record.id}: {'; '.join(refused)}")
        groups.limit_devices(program, group.path, resources)
    finally:
        record.release()
    return 0


def _document(path: str) -> dict[str, Any]:
    try:
        document: Any = loads(sys.stdin.read()) if path == "-" else read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--resources {path}: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"--resources {path}: must be a JSON object")
    return document


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    """Seconds of a Go duration of one unit, such as 500ms or 5s. Raises UsageError."""
    number = text.rstrip("mhs")
    try:
        seconds = float(number) * _UNITS[text[len(number) :]]
    except (ValueError, KeyError):
        raise UsageError(f"--interval {text!r} is not a time", "write 500ms, 5s or 1m") from None
    if seconds <= 0:
        raise UsageError(f"--interval {text}: must be above 0")
    return seconds


def events(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """One JSON line with figures each interval, one whenever memory ran out; until the container ends."""
    interval = _seconds(options.get("interval", "5s"))
    record = program.store().load(operands[0])
    if record.status not in ("created", "running", "paused"):
        raise StateError(f"container {record.id} is {record.status}: container not running")
    group = _group(record, "events of")
    if options.get("stats"):
        _event(record, "stats", group.stats())
        return 0
    _follow(record, group, interval)
    return 0


def _follow(record: Record, group: cgroup.Cgroup, interval: float) -> None:
    pidfd = os.pidfd_open(record.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    memory = -1
    try:
        memory = os.open(f"{group.path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        poll.register(memory, select.POLLPRI)
    except OSError:
        pass  # without the memory controller nothing runs out
    kills = group.oom_kills()
    due = time.monotonic()
    try:
        while True:
            left = due - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(0.0, left) * 1000)}
            if memory in ready:
                os.pread(memory, 4096, 0)
            if group.oom_kills() > kills:
                kills = group.oom_kills()
                _event(record, "oom", None)
            if pidfd in ready or not record.pid:
                return
            if time.monotonic() >= due:
                _event(record, "stats", group.stats())
                due += interval
    finally:
        os.close(pidfd)
        if memory >= 0:
            os.close(memory)


def _event(record: Record, kind: str, data: dict[str, Any] | None) -> None:
    document: dict[str, Any] = {"type": kind, "id": record.id}
    if data is not None:
        document["data"] = data
    try:
        sys.stdout.write(dumps(document) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise RlError(f"write the events: {error.strerror}") from None


COMMANDS: dict[str, Callable[[Program, dict[str, Any], list[str]], int]] = {
    "pause": pause, "resume": resume, "update": update, "events": events,
}
