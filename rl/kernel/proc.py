"""What /proc tells of processes, and signals by pidfd: what needs no ctypes, whose import costs 2 ms.

For commands that only look or signal: ps, `rl-runtime start`, kill, delete. :mod:`rl.kernel.process` has all of it too.
"""

from __future__ import annotations

import _signal
import posix as os  # os itself costs a millisecond, and all that is used here is in posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process *pidfd* stands for; ESRCH when it is gone, never a reused pid."""
    _signal.pidfd_send_signal(pidfd, signal)


def start_time(pid: int | str) -> int:
    """When *pid* started, in clock ticks after boot (proc(5), stat field 22); 0 if there is none.

    With the boot id it tells a process from a later one of the same number.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def session(pid: int | str) -> int:
    """The session of *pid*: the pid of the process that began it (setsid(2)); 0 if there is no such process."""
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def is_zombie(pid: int | str) -> bool:
    """Whether *pid* has ended and waits to be reaped."""
    return _stat(pid)[:1] in ([b"Z"], [b"X"])


def _stat(pid: int | str) -> list[bytes]:
    """The fields of /proc/PID/stat after the name (proc(5)), from the state on; [] where there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        stat = os.read(fd, 4096)
    except OSError:
        return []
    finally:
        os.close(fd)
    return stat[stat.rindex(b")") + 2 :].split()


def boot_id() -> str:
    """The random id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def id_map(kind: str) -> list[tuple[int, int, int]]:
    """(first id inside, first id outside, count) for each line of this process's ``uid`` or ``gid`` map."""
    with open(f"/proc/self/{kind}_map", encoding="utf-8") as file:
        return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, file)]


def mounts(pid: int | str = "self") -> list[tuple[str, str]]:
    """(mount point, type) of every mount that *pid* sees, in mount order (proc_pid_mountinfo(5))."""
    found = []
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split(" ", 5)[4]
            if "\\" in point:
                for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                    point = point.replace(code, character)
            found.append((point, right.partition(" ")[0]))
    return found


def outside(ranges: Iterable[tuple[int, int, int]], number: int, unmapped: int = -1) -> int:
    """The outer id of *number*, an id inside the user namespace with map *ranges*; *unmapped* where it has none."""
    for first, outer, count in ranges:
        if first <= number < first + count:
            return outer + number - first
    return unmapped


def inside(ranges: Iterable[tuple[int, int, int]], number: int, unmapped: int = -1) -> int:
    """The id inside the user namespace with map *ranges* of *number*, an outer id; *unmapped* where it has none."""
    for first, outer, count in ranges:
        if outer <= number < outer + count:
            return first + number - outer
    return unmapped


def outer_uid() -> int:
    """This process's uid as the host knows it, from inside the shared user namespace too."""
    uid = os.getuid()
    return outside(id_map("uid"), uid, uid)
