"""How the kernel schedules a process: OCI ``scheduler``, ``ioPriority``, ``execCPUAffinity``, ``linux.personality``.

Called by :mod:`rl.runtime.process` and :mod:`rl.runtime.exec`, imported only where one of them is asked for.
Source: OCI runtime specification, config.md "Linux Process", config-linux.md "Personality"; sched_setattr(2),
ioprio_set(2), sched_setaffinity(2), personality(2).
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import process as kp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
            "SCHED_DEADLINE": 6}
FLAGS = {"SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4,
         "SCHED_FLAG_KEEP_POLICY": 8, "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
         "SCHED_FLAG_UTIL_CLAMP_MAX": 64}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
_CPUS = 8192  # more than any kernel is built for (CONFIG_NR_CPUS)


def apply(process: dict[str, Any], linux: dict[str, Any]) -> None:
    """Scheduler, I/O priority and personality of *process*, for this thread. Raises RlError."""
    if process.get("scheduler"):
        _scheduler(process["scheduler"])
    if process.get("ioPriority"):
        _io_priority(process["ioPriority"])
    if linux.get("personality"):
        _personality(linux["personality"])


def _number(holder: dict[str, Any], key: str, what: str) -> int:
    value = holder.get(key) or 0
    if type(value) is not int:
        raise RlError(f"{what}.{key}: {value!r} is not a number")
    return value


def _scheduler(wanted: dict[str, Any]) -> None:
    what = "process.scheduler"
    policy = wanted.get("policy")
    if policy not in POLICIES:
        raise RlError(f"{what}.policy: {policy!r} is not known", f"use one of {' '.join(POLICIES)}")
    flags = 0
    for index, flag in enumerate(wanted.get("flags") or ()):
        if flag not in FLAGS:
            raise RlError(f"{what}.flags[{index}]: {flag!r} is not known", f"use one of {' '.join(FLAGS)}")
        flags |= FLAGS[flag]
    nice, priority, runtime, deadline, period = (
        _number(wanted, key, what) for key in ("nice", "priority", "runtime", "deadline", "period")
    )
    try:
        kp.sched_setattr(POLICIES[policy], flags, nice, priority, runtime, deadline, period)
    except OSError as error:
        hint = ""
        if error.errno == errno.EPERM:
            hint = "real-time policies and a better nice value need privileges on the host (CAP_SYS_NICE)"
        elif error.errno in (errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP):
            hint = "this kernel does not accept this combination: see sched_setattr(2)"
        elif error.errno == errno.EBUSY:
            hint = "the processors have no time left for such a deadline"
        raise RlError(f"set {what} {policy}: {error.strerror}", hint) from None


def _io_priority(wanted: dict[str, Any]) -> None:
    what = "process.ioPriority"
    name, priority = wanted.get("class"), _number(wanted, "priority", what)
    if name not in IO_CLASSES:
        raise RlError(f"{what}.class: {name!r} is not known", f"use one of {' '.join(IO_CLASSES)}")
    if not 0 <= priority <= 7:
        raise RlError(f"{what}.priority: {priority} is not from 0 to 7")
    try:
        kp.ioprio_set(IO_CLASSES[name], priority)
    except OSError as error:
        hint = "the real-time class needs privileges on the host" if error.errno == errno.EPERM else ""
        raise RlError(f"set {what} {name}: {error.strerror}", hint) from None


def set_affinity(process: dict[str, Any], when: str) -> None:
    """``execCPUAffinity``, *when* is "initial" (before the container's cgroup is entered) or "final" (after)."""
    text = (process.get("execCPUAffinity") or {}).get(when)
    if not text:
        return
    what = f"process.execCPUAffinity.{when}"
    try:
        os.sched_setaffinity(0, cpus(text, what))
    except OSError as error:
        hint = "none of these processors is there, or the container's cpuset has none of them"
        raise RlError(f"{what}: {text!r}: {error.strerror}", hint) from None


def cpus(text: str, what: str) -> set[int]:
    """The processors of a list such as ``0-3,7`` (cpuset(7), "List format"). Raises RlError naming *what*."""
    found: set[int] = set()
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise RlError(f"{what}: {text!r} is not a list of processors", "write it like 0-3,7")
        if not int(first) <= int(last) < _CPUS:
            raise RlError(f"{what}: {part.strip()!r} is not a range of processors", "write it like 0-3,7")
        found.update(range(int(first), int(last) + 1))
    return found


def _personality(wanted: dict[str, Any]) -> None:
    domain, flags = wanted.get("domain"), wanted.get("flags")
    if flags:
        raise UnsupportedError(f"linux.personality.flags: {flags!r}: none are defined", "leave them out")
    if domain not in PERSONALITIES:
        raise UnsupportedError(f"linux.personality.domain: {domain!r} is not known", "use LINUX or LINUX32")
    try:
        kp.personality(PERSONALITIES[domain])
    except OSError as error:
        raise RlError(f"set linux.personality {domain}: {error.strerror}") from None
