"""What create, run and exec have in common: descriptors, the pid file, where compiled filters are kept."""

from __future__ import annotations

import os

from rl.errors import RlError, UsageError


def preserved(count: int) -> list[int]:
    """Descriptors 3 to 2 + *count*, for --preserve-fds. Raises UsageError for one that is not open."""
    if count < 0:
        raise UsageError("--preserve-fds: must not be negative")
    fds = list(range(3, 3 + count))
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            raise UsageError(f"--preserve-fds {count}: descriptor {fd} is not open") from None
    return fds


def cache_directory() -> str:
    """Where compiled seccomp filters are kept; "" where there is no home."""
    home = os.environ.get("HOME", "")
    base = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    return f"{base}/rl" if base else ""


def write_pid(path: str, pid: int) -> None:
    """The --pid-file: complete or not there."""
    if not path:
        return
    try:
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise RlError(f"write the pid file {path}: {error.strerror}") from None
