"""The log of events: one line of JSON for every change of every object, written by whoever makes the change.

Called by `rl.engine.events` and, at a container's end, by the lean monitor, which imports it only then: it needs C
modules and `rl.config.jsonio`, no more. `rl.engine.eventstream` is the reader.

An event never fails a command and never holds one up: what a full disk does not take is lost, and counted in the file
beside the log (``events.log.lost``, overwritten in place, so that it needs no room).

Lines are appended by one write(2) with O_APPEND, so those of two writers never mix. A log over its limit becomes
``events.log.1``, which takes the place of the one before: the directory is memory, which events must not fill. Writers
hold the file's lock shared while they append, who renames holds it alone: nothing is added to what a reader has left.
"""

from __future__ import annotations

import posix
import time

from rl.config.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.model import Event, EventLog

#: What an attribute of this name is called in the event itself (as containerExitCode is); others stay attributes.
FIELDS = {"image": "Image", "health_status": "HealthStatus", "network": "Network", "podId": "PodID", "error": "Error"}
#: Every line begins so, which no string within a line does: a reader finds the next one after a torn one.
BEGIN = b'{"Time": "'
_LOST_WIDTH = 20


def event(
    kind: str, status: str, identity: str, name: str, attributes: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
) -> Event:
    """An event of now, with the field names of `podman events --format json`; *labels* are attributes of any name."""
    ns = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
    found: Event = {"Time": stamp, "timeNano": ns, "Type": kind, "Status": status, "ID": identity, "Name": name}
    rest = dict(labels or {})
    for key, value in (attributes or {}).items():
        if key == "containerExitCode":
            found["ContainerExitCode"] = int(value)
        elif key in FIELDS:
            found[FIELDS[key]] = value  # type: ignore[literal-required]
        else:
            rest[key] = value
    if rest:
        found["Attributes"] = rest
    return found


def write(log: EventLog, events: Sequence[Event]) -> None:
    """Add *events* to *log*. Never raises, never waits for anything but a rename."""
    try:
        if log["backend"] == "file":
            _append(log, b"".join([dumps(found).encode() + b"\n" for found in events]), len(events))
        elif log["backend"] == "journald":
            from rl.monitor.eventlog_journald import send

            for found in events:
                send(found)
    except (OSError, ValueError, KeyError):
        pass


def _append(log: EventLog, data: bytes, count: int) -> None:
    import fcntl

    path = log["path"]
    fd = _open(path)
    try:
        for _ in range(200):
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.0005)  # somebody renames it just now
                continue
            except OSError:
                break  # a file system without locks
            size = posix.fstat(fd).st_size
            full = log["limit"] and size and size + len(data) > log["limit"]
            if _is_current(fd, path) and (not full or not _rotate(fd, path)):
                break
            posix.close(fd)
            fd = -1
            fd = _open(path)
        _put(fd, data, path, count)
    finally:
        if fd >= 0:
            posix.close(fd)


def _open(path: str) -> int:
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        return posix.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        posix.mkdir(path.rpartition("/")[0], 0o700)
    except FileExistsError:
        pass
    try:
        counter = posix.open(f"{path}.lost", flags | posix.O_CREAT | posix.O_EXCL, 0o600)
        posix.write(counter, b"%-*d" % (_LOST_WIDTH, 0))
        posix.close(counter)
    except FileExistsError:
        pass
    return posix.open(path, flags | posix.O_CREAT, 0o600)


def _is_current(fd: int, path: str) -> bool:
    """Whether *path* is still the file that *fd* holds open."""
    try:
        there = posix.stat(path)
    except FileNotFoundError:
        return False
    ours = posix.fstat(fd)
    return there.st_ino == ours.st_ino and there.st_dev == ours.st_dev


def _rotate(fd: int, path: str) -> bool:
    """Whether the log got another name, by us or by another; where it cannot, it grows."""
    import fcntl

    try:
        # Not atomic: the shared lock goes first, so look again whether it is still the one.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_current(fd, path):
            posix.rename(path, f"{path}.1")
        return True
    except BlockingIOError:  # others are appending
        return True
    except OSError:
        return False


def _put(fd: int, data: bytes, path: str, count: int) -> None:
    try:
        if posix.write(fd, data) == len(data):
            return
    except OSError:  # ENOSPC, EDQUOT, EIO
        pass
    _count_lost(path, count)


def _count_lost(path: str, count: int) -> None:
    """Add to the number of lost events; the file was made with the log, so there is room for it."""
    import fcntl

    fd = posix.open(f"{path}.lost", posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        known = int(posix.pread(fd, _LOST_WIDTH, 0).strip() or b"0")
        posix.pwrite(fd, b"%-*d" % (_LOST_WIDTH, known + count), 0)
    finally:
        posix.close(fd)


def lost(path: str) -> int:
    """How many events of the log *path* were lost on a full disk."""
    try:
        fd = posix.open(f"{path}.lost", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(posix.read(fd, _LOST_WIDTH).strip() or b"0")
    except (OSError, ValueError):
        return 0
    finally:
        posix.close(fd)
