"""OCI ``linux.resources`` → which cgroup v2 file gets which value. Pure translation; rl.runtime.cgroup writes.

Version 1's units and ranges are what the specification speaks; where version 2 has no counterpart, the
setting says so (``problem``), so that nothing asked for is dropped in silence.

Source: OCI runtime specification, config-linux.md "Control groups"; kernel Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from math import log2

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MAX = "max"


class Setting:
    """One value for one file. ``problem``: why it cannot be had; ``without``: another file if the first is missing."""

    __slots__ = ("controller", "file", "problem", "value", "what", "without")

    def __init__(self, what: str, file: str, value: str, problem: str = "", without: Setting | None = None) -> None:
        self.what = what
        self.file = file
        self.value = value
        self.problem = problem
        self.without = without
        self.controller = "" if file.startswith("cgroup.") else file.partition(".")[0]


def settings(resources: dict[str, Any]) -> list[Setting]:
    """What *resources* asks for, in the order to write it; ``unified`` comes last and so has the last word.

    ``devices`` is not here: version 2 has a device filter (eBPF) instead of files. Raises UsageError for
    values that contradict each other.
    """
    result: list[Setting] = []
    for key, translate in (
        ("memory", _memory), ("cpu", _cpu), ("pids", _pids), ("blockIO", _block_io), ("network", _network),
    ):  # fmt: skip
        if resources.get(key):
            result += translate(resources[key])
    for page in resources.get("hugepageLimits") or ():
        size = page["pageSize"]
        result.append(Setting(f"huge page limit ({size})", f"hugetlb.{size}.max", _limit(page["limit"])))
    for device, limits in (resources.get("rdma") or {}).items():
        pairs = [(name, limits.get(key)) for name, key in (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))]
        text = " ".join(f"{name}={value}" for name, value in pairs if value is not None)
        result.append(Setting(f"rdma limit of {device}", "rdma.max", f"{device} {text}"))
    result += _unified(resources.get("unified") or {})
    return result


def _limit(value: int) -> str:
    return MAX if value < 0 else str(value)


def _none(what: str) -> Setting:
    return Setting(what, "", "", "cgroup v2 has no such setting")


def _size(value: int) -> str:
    """*value* bytes, as a person would write them."""
    if value < 0:
        return "unlimited"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value and value % (1 << power) == 0:
            return f"{value >> power} {unit}"
    return f"{value} bytes"


def _memory(memory: dict[str, Any]) -> Iterable[Setting]:
    # 0 is "not set" to the engines that write config.json, and to runc.
    limit, swap = memory.get("limit") or None, memory.get("swap") or None
    if limit is not None:
        yield Setting(f"memory limit {_size(limit)}", "memory.max", _limit(limit))
    if swap is not None:
        yield Setting(f"memory and swap limit {_size(swap)}", "memory.swap.max", _swap(limit, swap))
    if memory.get("reservation") is not None:
        value = memory["reservation"]
        yield Setting(f"memory reservation {_size(value)}", "memory.low", _limit(value))
    for key in ("kernel", "kernelTCP", "swappiness"):
        if memory.get(key) is not None:
            yield _none(f"memory {key} {memory[key]}")
    if memory.get("disableOOMKiller"):
        yield _none("disabling the OOM killer")


def _swap(limit: int | None, swap: int) -> str:
    """Version 1 counts memory and swap together, version 2 swap alone."""
    if swap < 0 or (limit is not None and limit < 0):
        return MAX
    if limit is None:
        raise UsageError("a swap limit needs a memory limit: swap counts both together", "set --memory too")
    if swap < limit:
        raise UsageError(
            f"the swap limit of {swap} bytes is below the memory limit of {limit}", "it counts memory and swap together"
        )
    return str(swap - limit)


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1..10000) for *shares* (2..262144), through (2, 1), (1024, 100) and (262144, 10000).

    A straight line, as older runtimes draw it, would give the default of one the 39th part of the default of the other.
    """
    exponent = log2(min(max(shares, 2), 262144))
    return min(max(int(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34) + 0.999999), 1), 10000)


def _cpu(cpu: dict[str, Any]) -> Iterable[Setting]:
    if cpu.get("shares"):
        yield Setting(f"cpu shares {cpu['shares']}", "cpu.weight", str(weight_of_shares(cpu["shares"])))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        period = period or 100_000
        what = f"cpu limit {quota / period:g}" if quota and quota > 0 else f"cpu period {period} us"
        yield Setting(what, "cpu.max", f"{_limit(quota) if quota else MAX} {period}")
    if cpu.get("burst") is not None:
        yield Setting(f"cpu burst {cpu['burst']} us", "cpu.max.burst", str(cpu["burst"]))
    if cpu.get("idle") is not None:
        yield Setting(f"cpu idle {cpu['idle']}", "cpu.idle", str(cpu["idle"]))
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            yield _none(f"cpu {key} {cpu[key]}")
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Setting(f"cpuset {key} {cpu[key]}", f"cpuset.{key}", cpu[key])


def _pids(pids: dict[str, Any]) -> Iterable[Setting]:
    if pids.get("limit") is not None:
        limit = pids["limit"]
        yield Setting(f"pids limit {limit}", "pids.max", str(limit) if limit > 0 else MAX)


def _io_weight(weight: int, what: str, device: str = "default") -> Setting:
    """BFQ has the range of version 1 (10..1000); the kernel's own io.weight has 1..10000."""
    linear = 1 + (weight - 10) * 9999 // 990
    return Setting(
        what, "io.bfq.weight", f"{device} {weight}", without=Setting(what, "io.weight", f"{device} {linear}")
    )


def _block_io(block: dict[str, Any]) -> Iterable[Setting]:
    if block.get("weight"):
        yield _io_weight(block["weight"], f"io weight {block['weight']}")
    if block.get("leafWeight"):
        yield _none(f"io leaf weight {block['leafWeight']}")
    for entry in block.get("weightDevice") or ():
        name = f"{entry['major']}:{entry['minor']}"
        if entry.get("weight"):
            yield _io_weight(entry["weight"], f"io weight {entry['weight']} of device {name}", name)
        if entry.get("leafWeight"):
            yield _none(f"io leaf weight {entry['leafWeight']} of device {name}")
    for key, name in (
        ("throttleReadBpsDevice", "rbps"), ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"), ("throttleWriteIOPSDevice", "wiops"),
    ):  # fmt: skip
        for entry in block.get(key) or ():
            device, rate = f"{entry['major']}:{entry['minor']}", entry["rate"]
            yield Setting(f"io limit {name}={rate} of device {device}", "io.max", f"{device} {name}={rate or MAX}")


def _network(network: dict[str, Any]) -> Iterable[Setting]:
    if network.get("classID"):
        yield _none(f"network class {network['classID']}")
    for entry in network.get("priorities") or ():
        yield _none(f"network priority {entry['priority']} of {entry['name']}")


def _unified(unified: dict[str, str]) -> Iterable[Setting]:
    for file, value in unified.items():
        if "/" in file or "." not in file or file.startswith("."):
            raise UsageError(f"linux.resources.unified: {file!r} is not the name of a cgroup file")
        yield Setting(f"{file} {value}", file, str(value))
