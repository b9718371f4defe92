"""The figures of one running container, from its cgroup or from /proc, whichever has them. Called by `rl stats`."""

from __future__ import annotations

import os

from rl.runtime.cgroup.group import read

_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """/proc looked through once for all containers, and only if one needs it."""

    __slots__ = ("_by_namespace", "_children")

    def __init__(self) -> None:
        self._by_namespace: dict[int, list[int]] | None = None
        self._children: dict[int, list[int]] = {}

    def of(self, init: int, pid_mode: str) -> list[int]:
        """The pids of a container: its pid namespace, or, where that is not its own, what descends from *init*."""
        if self._by_namespace is None:
            self._look()
        assert self._by_namespace is not None
        if pid_mode == "private":
            found = self._by_namespace.get(_inode(init), [])
            return found if init in found else [init]
        found, at = [init], 0
        while at < len(found):
            found += self._children.get(found[at], [])
            at += 1
        return found

    def _look(self) -> None:
        self._by_namespace = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                pid = int(name)
                self._by_namespace.setdefault(_inode(pid), []).append(pid)
                try:
                    self._children.setdefault(int(_stat(pid)[1]), []).append(pid)
                except (OSError, ValueError, IndexError):
                    continue


def _inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rindex(")") + 2 :].split()


def of_container(init: int, cgroup: str, pid_mode: str, table: Processes) -> dict[str, int]:
    """cpu_time, cpu_system (ns), memory, memory_limit, net_*, block_* (bytes), pids; 0 for what nobody tells."""
    found: dict[str, int] = {}
    if cgroup:
        found = _of_cgroup(cgroup)
    missing = {"cpu_time", "memory", "pids", "block_input"} - found.keys()
    if missing:
        pids = table.of(init, pid_mode)
        if "cpu_time" in missing:
            found["cpu_time"], found["cpu_system"] = _cpu(pids)
        if "memory" in missing:
            found["memory"] = sum(map(_memory, pids))
        if "pids" in missing:
            found["pids"] = sum(map(_threads, pids))
        if "block_input" in missing:
            found["block_input"], found["block_output"] = _block(pids)
    host = host_memory()
    found["memory_limit"] = min(found.get("memory_limit", host), host)
    found["net_input"], found["net_output"] = _network(init)
    return found


def host_memory() -> int:
    """All memory of the host, in bytes."""
    return _value("/proc/meminfo", "MemTotal:") * 1024


# cgroup v2


def _of_cgroup(path: str) -> dict[str, int]:
    """What the controllers that are there tell; cpu.stat is there without its controller too."""
    found: dict[str, int] = {}
    times = _table(f"{path}/cpu.stat")
    if "usage_usec" in times:
        found["cpu_time"], found["cpu_system"] = times["usage_usec"] * 1000, times.get("system_usec", 0) * 1000
    try:
        used = int(read(f"{path}/memory.current"))
        # What the kernel can drop at once is not the container's need: as Podman and Docker count.
        found["memory"] = max(0, used - _table(f"{path}/memory.stat").get("inactive_file", 0))
        limit = read(f"{path}/memory.max").strip()
        if limit != "max":
            found["memory_limit"] = int(limit)
    except (OSError, ValueError):
        pass
    try:
        found["pids"] = int(read(f"{path}/pids.current"))
    except (OSError, ValueError):
        pass
    try:
        found["block_input"], found["block_output"] = _io(read(f"{path}/io.stat"))
    except (OSError, ValueError):
        pass
    return found


def _table(path: str) -> dict[str, int]:
    try:
        pairs = [line.split() for line in read(path).splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return {}


def _io(text: str) -> tuple[int, int]:
    """(read, written) of io.stat: ``8:0 rbytes=1 wbytes=2 …`` for each device."""
    total = {"rbytes": 0, "wbytes": 0}
    for pair in text.split():
        name, _, value = pair.partition("=")
        if name in total:
            total[name] += int(value)
    return total["rbytes"], total["wbytes"]


# /proc


def _cpu(pids: list[int]) -> tuple[int, int]:
    """(all, the kernel's part) in ns, of the processes and of those of their children that have ended."""
    user = system = 0
    for pid in pids:
        try:
            fields = _stat(pid)
            user += int(fields[11]) + int(fields[13])  # utime, cutime
            system += int(fields[12]) + int(fields[14])
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    return (user + system) * _TICK, system * _TICK


def _memory(pid: int) -> int:
    """Bytes: its share of what it has in memory; without permission for that, what no other process maps."""
    try:
        return _value(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024
    except OSError:
        pass
    try:
        fields = read(f"/proc/{pid}/statm").split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _threads(pid: int) -> int:
    try:
        return int(_stat(pid)[17])
    except (OSError, ValueError, IndexError):
        return 0


def _block(pids: list[int]) -> tuple[int, int]:
    """(read, written) of real devices; the kernel adds those of a child that ended to its parent."""
    total = [0, 0]
    for pid in pids:
        try:
            text = read(f"/proc/{pid}/io")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(": ")
            if name in ("read_bytes", "write_bytes"):
                total[name == "write_bytes"] += int(value)
    return total[0], total[1]


def _value(path: str, key: str) -> int:
    """The number behind *key* in a file of lines; 0 without that line. Raises OSError."""
    for line in read(path).splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def _network(init: int) -> tuple[int, int]:
    """(received, sent) by the container's interfaces but its loopback; nothing where it has the host's."""
    try:
        if os.stat(f"/proc/{init}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return 0, 0
        lines = read(f"/proc/{init}/net/dev").splitlines()[2:]
    except OSError:
        return 0, 0
    received = sent = 0
    for line in lines:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) > 8:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent
