"""--memory, --cpus, --pids-limit …: the OCI ``linux.resources`` object they ask for."""

from __future__ import annotations

from rl.engine.spec.values import integer, number, size
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_PERIOD = 100_000  # microseconds, the kernel's default
_QUOTA_LEAST = 1000  # microseconds (kernel/sched/core.c, min_cfs_quota_period)
_MOST = 1 << 63


def resources(options: Mapping[str, Any]) -> dict[str, Any]:
    """linux.resources (runtime-spec, config-linux.md, Control groups); {} when no limit was asked for."""
    result: dict[str, Any] = {}
    memory = _memory(options)
    if memory:
        result["memory"] = memory
    cpu = _cpu(options)
    if cpu:
        result["cpu"] = cpu
    if "pids_limit" in options:
        limit = integer(options["pids_limit"], "--pids-limit", -1)
        if limit:  # 0 and -1 mean no limit
            result["pids"] = {"limit": limit}
    return result


def _memory(options: Mapping[str, Any]) -> dict[str, int]:
    memory = {}
    for flag, key in (("memory", "limit"), ("memory_reservation", "reservation")):
        if flag in options:
            value = size(options[flag], f"--{flag.replace('_', '-')}")
            if value:
                memory[key] = value
    if memory.get("reservation", 0) > memory.get("limit", _MOST):
        raise UsageError("--memory-reservation is above --memory", "the reservation is the softer limit")
    swap = 0  # not given, as in Podman
    if "memory_swap" in options:
        swap = -1 if str(options["memory_swap"]) == "-1" else size(options["memory_swap"], "--memory-swap")
    if swap:
        if "limit" not in memory:
            raise UsageError("--memory-swap needs --memory", "set both: --memory 512m --memory-swap 1g")
        if swap != -1 and swap < memory["limit"]:
            raise UsageError("--memory-swap counts memory and swap together, so it must not be below --memory")
        memory["swap"] = swap
    elif "limit" in memory:
        memory["swap"] = memory["limit"] * 2  # as Podman: as much swap as memory
    return memory


def _cpu(options: Mapping[str, Any]) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if "cpus" in options:
        if "cpu_quota" in options or "cpu_period" in options:
            raise UsageError("--cpus and --cpu-quota or --cpu-period contradict each other", "use one of them")
        count = number(options["cpus"], "--cpus")
        if count:
            cpu = {"quota": round(count * _PERIOD), "period": _PERIOD}
            if cpu["quota"] < _QUOTA_LEAST:
                raise UsageError(f"--cpus {options['cpus']} is too little", "0.01 is the least the kernel grants")
    if "cpu_period" in options:
        cpu["period"] = integer(options["cpu_period"], "--cpu-period", 1000, 1_000_000)
    if "cpu_quota" in options:
        quota = integer(options["cpu_quota"], "--cpu-quota")
        if 0 < quota < _QUOTA_LEAST:
            raise UsageError(f"--cpu-quota {quota} is too little", f"{_QUOTA_LEAST} microseconds are the least")
        if quota > 0:
            cpu["quota"] = quota
    if "cpu_shares" in options:
        cpu["shares"] = integer(options["cpu_shares"], "--cpu-shares", 0)
    for flag, key in (("cpuset_cpus", "cpus"), ("cpuset_mems", "mems")):
        if options.get(flag):
            cpu[key] = _number_list(options[flag], f"--{flag.replace('_', '-')}")
    return cpu


def _number_list(text: str, flag: str) -> str:
    """cpuset(7), List format: ``0-3,7``; the kernel says EINVAL only, and late."""
    for item in text.split(","):
        first, dash, last = item.strip().partition("-")
        low = integer(first, flag, 0)
        if dash and integer(last, flag, 0) < low:
            raise UsageError(f"{flag}: {item!r} ends before it begins", "write numbers and ranges: 0-3,7")
    return text
