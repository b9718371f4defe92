"""The figures of `runc events --stats`, read from a cgroup's files.

The document is runc's (types/events.go), which other engines parse; version 2's files are told in its words, as runc
does: times in nanoseconds, "no limit" as 2⁶⁴-1, swap counted together with memory, 0 where the controller is missing.
"""

from __future__ import annotations

import os

from rl.runtime.cgroup.group import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_LIMIT = (1 << 64) - 1


def stats(path: str) -> dict[str, Any]:
    """The ``data`` of one ``{"type": "stats", "id": …, "data": …}`` line, for the cgroup at *path*."""
    return {
        "cpu": _cpu(path),
        "cpuset": {},
        "memory": _memory(path),
        "pids": _pids(path),
        "blkio": _io(path),
        "hugetlb": _hugetlb(path),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _text(path: str) -> str:
    try:
        return read(path)
    except OSError:
        return ""  # no such controller here


def _number(path: str, missing: int = 0) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else NO_LIMIT if text == "max" else missing


def _table(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _cpu(path: str) -> dict[str, Any]:
    found = _table(f"{path}/cpu.stat")
    return {
        "usage": {
            "total": found.get("usage_usec", 0) * 1000,
            "kernel": found.get("system_usec", 0) * 1000,
            "user": found.get("user_usec", 0) * 1000,
        },
        "throttling": {
            "periods": found.get("nr_periods", 0),
            "throttledPeriods": found.get("nr_throttled", 0),
            "throttledTime": found.get("throttled_usec", 0) * 1000,
        },
    }


def _memory(path: str) -> dict[str, Any]:
    raw = _table(f"{path}/memory.stat")
    events = _table(f"{path}/memory.events")
    usage, limit = _number(f"{path}/memory.current"), _number(f"{path}/memory.max", NO_LIMIT)
    swap, swap_limit = _number(f"{path}/memory.swap.current"), _number(f"{path}/memory.swap.max", NO_LIMIT)
    together = NO_LIMIT if NO_LIMIT in (limit, swap_limit) else limit + swap_limit
    return {
        "cache": raw.get("file", 0),
        "usage": {
            "limit": limit, "usage": usage, "max": _number(f"{path}/memory.peak"), "failcnt": events.get("max", 0),
        },
        "swap": {"limit": together, "usage": usage + swap, "max": 0, "failcnt": 0},
        "kernel": {"limit": 0, "usage": raw.get("kernel", 0), "max": 0, "failcnt": 0},
        "kernelTCP": {"limit": 0, "usage": raw.get("sock", 0), "max": 0, "failcnt": 0},
        "raw": raw,
    }  # fmt: skip


def _pids(path: str) -> dict[str, int]:
    limit = _number(f"{path}/pids.max")
    return {"current": _number(f"{path}/pids.current"), "limit": 0 if limit == NO_LIMIT else limit}


def _io(path: str) -> dict[str, Any]:
    """io.stat: ``8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`` → one entry for each device and operation."""
    moved: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    for line in _text(f"{path}/io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for letter, operation in (("r", "Read"), ("w", "Write"), ("d", "Discard")):
            for suffix, entries in (("bytes", moved), ("ios", done)):
                value = values.get(letter + suffix, "")
                if value.isdigit() and major.isdigit() and minor.isdigit():
                    entries.append({"major": int(major), "minor": int(minor), "op": operation, "value": int(value)})
    return {"ioServiceBytesRecursive": moved, "ioServicedRecursive": done}


def _hugetlb(path: str) -> dict[str, dict[str, int]]:
    found = {}
    try:
        names = os.listdir(path)
    except OSError:
        return {}
    for name in names:
        if name.startswith("hugetlb.") and name.endswith(".current") and ".rsvd." not in name:
            page = name[len("hugetlb.") : -len(".current")]
            events = _table(f"{path}/hugetlb.{page}.events")
            found[page] = {"usage": _number(f"{path}/{name}"), "max": 0, "failcnt": events.get("max", 0)}
    return found
