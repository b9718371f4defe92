"""--memory, --cpus, --pids-limit …: the OCI ``linux.resources`` object they ask for."""

from __future__ import annotations

import os

from rl.engine.spec.values import integer, number, pairs, size
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_PERIOD = 100_000  # microseconds, the kernel's default
_QUOTA_LEAST = 1000  # microseconds (kernel/sched/core.c, min_cfs_quota_period)
_MOST = 1 << 63

#: Flags for what only cgroup v1 has: (key, the values that ask for nothing).
_V1_ONLY = (
    ("memory_swappiness", ("-1",)), ("oom_kill_disable", ("False",)), ("cpu_rt_period", ("0",)),
    ("cpu_rt_runtime", ("0",)), ("kernel_memory", ("0",)),
)  # fmt: skip

#: flag → key of linux.resources.blockIO, and whether the rate is bytes
_THROTTLES = (
    ("device_read_bps", "throttleReadBpsDevice", True), ("device_write_bps", "throttleWriteBpsDevice", True),
    ("device_read_iops", "throttleReadIOPSDevice", False), ("device_write_iops", "throttleWriteIOPSDevice", False),
)  # fmt: skip


def resources(options: Mapping[str, Any], present: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """linux.resources (runtime-spec, config-linux.md, Control groups); {} when no limit was asked for.

    *present*: limits that a container has already and *options* change (`rl update`); then "no limit" is a wish too
    and in the result, as -1. Raises UsageError, UnsupportedError for what cgroup v2 does not have.
    """
    _refuse_v1(options)
    asked = {
        "memory": _memory(options, present), "cpu": _cpu(options, present is not None),
        "blockIO": _block_io(options), "unified": _unified(options),
    }  # fmt: skip
    result: dict[str, Any] = {key: found for key, found in asked.items() if found}
    if "pids_limit" in options:
        limit = integer(options["pids_limit"], "--pids-limit", -1)
        if limit or present is not None:  # 0 and -1 mean no limit
            result["pids"] = {"limit": limit or -1}
    return result


def merge(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """*present* limits with *changes* on top: single values replace single values, a list of devices the list."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in present.items()}
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _refuse_v1(options: Mapping[str, Any]) -> None:
    for key, nothing in _V1_ONLY:
        if key in options and str(options[key]) not in nothing:
            hint = {
                "memory_swappiness": "--memory-swap limits swap",
                "oom_kill_disable": "--oom-score-adj lowers the preference, --cgroup-conf=memory.high=… throttles",
                "kernel_memory": "--memory counts the kernel's memory too",
            }.get(key, "leave it out; --cpus and --cpu-shares are what there is")
            raise UnsupportedError(f"--{key.replace('_', '-')}: cgroup v2 has no such setting", hint)


def _memory(options: Mapping[str, Any], present: Mapping[str, Any] | None) -> dict[str, int]:
    memory = {}
    before: Mapping[str, int] = (present or {}).get("memory") or {}
    for flag, key in (("memory", "limit"), ("memory_reservation", "reservation")):
        if flag in options:
            value = size(options[flag], f"--{flag.replace('_', '-')}") if str(options[flag]) != "-1" else 0
            if value:
                memory[key] = value
            elif present is not None:
                memory[key] = -1
    limit = memory.get("limit", before.get("limit", -1))
    if memory.get("reservation", 0) > (limit if limit > 0 else _MOST):
        raise UsageError("--memory-reservation is above --memory", "the reservation is the softer limit")
    swap = 0  # not given, as in Podman
    if "memory_swap" in options:
        swap = -1 if str(options["memory_swap"]) == "-1" else size(options["memory_swap"], "--memory-swap")
    if swap:
        if limit < 0:
            raise UsageError("--memory-swap needs --memory", "set both: --memory 512m --memory-swap 1g")
        if swap != -1 and swap < limit:
            raise UsageError("--memory-swap counts memory and swap together, so it must not be below --memory")
        memory["swap"] = swap
    elif "limit" in memory:
        memory["swap"] = memory["limit"] * 2 if memory["limit"] > 0 else -1  # as Podman: as much swap as memory
    return memory


def _cpu(options: Mapping[str, Any], unset: bool) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if "cpus" in options:
        if "cpu_quota" in options or "cpu_period" in options:
            raise UsageError("--cpus and --cpu-quota or --cpu-period contradict each other", "use one of them")
        count = number(options["cpus"], "--cpus")
        if count:
            cpu = {"quota": round(count * _PERIOD), "period": _PERIOD}
            if cpu["quota"] < _QUOTA_LEAST:
                raise UsageError(f"--cpus {options['cpus']} is too little", "0.01 is the least the kernel grants")
        elif unset:
            cpu = {"quota": -1, "period": _PERIOD}
    if "cpu_period" in options:
        cpu["period"] = integer(options["cpu_period"], "--cpu-period", 1000, 1_000_000)
    if "cpu_quota" in options:
        quota = integer(options["cpu_quota"], "--cpu-quota")
        if 0 < quota < _QUOTA_LEAST:
            raise UsageError(f"--cpu-quota {quota} is too little", f"{_QUOTA_LEAST} microseconds are the least")
        if quota > 0 or unset:
            cpu["quota"] = quota if quota > 0 else -1
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


def numbers(text: str) -> list[int]:
    """The numbers of a list such as ``0-3,7``."""
    found: set[int] = set()
    for item in text.split(","):
        first, _, last = item.strip().partition("-")
        found.update(range(int(first), min(int(last or first), int(first) + 8192) + 1))
    return sorted(found)


def _block_io(options: Mapping[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if "blkio_weight" in options:
        weight = integer(options["blkio_weight"], "--blkio-weight")
        if weight:  # 0: the default
            block["weight"] = integer(weight, "--blkio-weight", 10, 1000)
    weights = []
    for item in options.get("blkio_weight_device", []):
        device, text = _device(item, "--blkio-weight-device", "500")
        weights.append({**device, "weight": integer(text, "--blkio-weight-device", 10, 1000)})
    if weights:
        block["weightDevice"] = weights
    for key, name, in_bytes in _THROTTLES:
        flag = f"--{key.replace('_', '-')}"
        entries = []
        for item in options.get(key, []):
            device, text = _device(item, flag, "10mb" if in_bytes else "1000")
            entries.append({**device, "rate": size(text, flag) if in_bytes else integer(text, flag, 0)})
        if entries:
            block[name] = entries
    return block


def _device(item: str, flag: str, example: str) -> tuple[dict[str, int], str]:
    """``/dev/sda:10mb`` → ({"major": 8, "minor": 0}, "10mb")."""
    path, colon, value = item.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise UsageError(f"{flag}: {item!r} is not DEVICE:VALUE", f"write {flag}=/dev/sda:{example}")
    try:
        found = os.stat(path)
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror}", "`lsblk --paths` lists block devices") from None
    if found.st_mode & 0o170000 != 0o060000:
        raise UsageError(f"{flag} {path}: not a block device", "`lsblk --paths` lists block devices")
    return {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}, value


def _unified(options: Mapping[str, Any]) -> dict[str, str]:
    """--cgroup-conf: files of cgroup v2 by name. The one who asks knows which; what moves processes is not a limit."""
    found = pairs(options.get("cgroup_conf", []), "--cgroup-conf", strict=True)
    for name in found:
        if "/" in name or name.startswith((".", "cgroup.")) or "." not in name:
            hint = "write --cgroup-conf=memory.high=1073741824"
            raise UsageError(f"--cgroup-conf: {name!r} is not the file of a limit", hint)
    return found
