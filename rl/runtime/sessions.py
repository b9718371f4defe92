"""Exec sessions on record, and how to end one with all that it started.

A session is a file ``exec-<id>`` in the container's run directory, with the pid and the start time of its command:
made when that runs, removed when it has ended. A file whose process is gone is stale: who ran `rl exec` was killed.
Called by `rl.engine.exec` and `rl.engine.inspect`, by the monitor at the container's end, and by its health checks.
"""

from __future__ import annotations

import posix as os  # on the hot path of exec; and a monitor does without os

from rl.kernel import proc

PREFIX = "exec-"


def record(run_dir: str, session_id: str, pid: int) -> str:
    """Put the session on record; the file's path, "" where the container has ended just now."""
    path = f"{run_dir}/{PREFIX}{session_id}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return ""
    try:
        os.write(fd, b"%d %d" % (pid, proc.start_time(pid)))
    except OSError:
        pass  # a full disk: it is not shown
    finally:
        os.close(fd)
    return path


def living(run_dir: str) -> list[tuple[str, int, int]]:
    """(id, pid, start time) of each session whose command runs; records of others are removed."""
    try:
        names = os.listdir(run_dir)
    except OSError:
        return []
    found = []
    for name in names:
        if not name.startswith(PREFIX):
            continue
        path = f"{run_dir}/{name}"
        pid, start = _read(path)
        if pid and proc.start_time(pid) == start:
            found.append((name[len(PREFIX) :], pid, start))
        elif pid:  # without one it is being written
            remove(path)
    return found


def _read(path: str) -> tuple[int, int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, 0
    try:
        pid, start = os.read(fd, 64).split()
        return int(pid), int(start)
    except (OSError, ValueError):
        return 0, 0
    finally:
        os.close(fd)


def end_all(run_dir: str) -> None:
    """Kill every session of a container that has ended, and forget them all.

    Nothing is left to kill but where the container shared its pid namespace, and has no cgroup to kill it by.
    """
    for _, pid, start in living(run_dir):
        if not proc.is_zombie(pid):
            kill(pid, start)
    try:
        names = [name for name in os.listdir(run_dir) if name.startswith(PREFIX)]
    except OSError:
        return
    for name in names:
        remove(f"{run_dir}/{name}")


def remove(path: str) -> None:
    """Forget a session: its command has ended."""
    try:
        os.unlink(path)
    except OSError:
        pass


def kill(leader: int, start: int) -> None:
    """SIGKILL the process *leader* that started at *start*, and all of its session (setsid(2)), whoever is its parent.

    A process that begins a session of its own gets away from this.
    """
    if not _kill_exactly(leader, start):
        return
    for _ in range(100):  # they may fork while we look
        members = [pid for pid in _all() if proc.session(pid) == leader and pid != leader and not proc.is_zombie(pid)]
        if not members:
            return
        for pid in members:
            since = proc.start_time(pid)
            if since and proc.session(pid) == leader:
                _kill_exactly(pid, since)


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _kill_exactly(pid: int, start: int) -> bool:
    """Whether it was that process: the number may have become another's."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if proc.start_time(pid) != start:
            return False
        proc.pidfd_send_signal(pidfd, 9)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
