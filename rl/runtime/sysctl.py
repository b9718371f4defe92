"""``linux.sysctl``: kernel parameters of the namespaces that the container has for itself.

Checked before the container is made (:func:`check`), written from inside its namespaces (:func:`apply`). Imported
only where sysctls are asked for. Any other parameter would change the host, where the runtime runs as real root.
Source: OCI runtime specification, config-linux.md "Sysctl"; namespaces(7).
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UsageError
from rl.kernel import fs
from rl.kernel import namespaces as ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rl.runtime.sync import Setup

_IPC = frozenset(
    ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced", "msg_next_id", "sem_next_id",
     "shm_next_id", "auto_msgmni")
)
_FILES = {"network": "net", "ipc": "ipc", "uts": "uts"}


def check(setup: Setup, new: Iterable[str]) -> None:
    """Refuse what does not belong to a namespace of the container's own; *new* are the types of those it gets new.

    Runs in the caller's namespaces: one that the specification names by path may be the caller's.
    """
    own = set(new)
    for kind, name in _FILES.items():
        if kind in setup.fds and not os.path.samestat(os.fstat(setup.fds[kind]), os.stat(f"/proc/self/ns/{name}")):
            own.add(kind)
    for key in setup.linux.get("sysctl") or {}:
        parts = _path(key).split("/")
        if parts == ["kernel", "hostname"] and "uts" in own:
            raise UsageError(f"set sysctl {key} (linux.sysctl.{key}): it contradicts hostname", "use hostname for it")
        if not _is_own(parts, own):
            raise RlError(
                f"set sysctl {key} (linux.sysctl.{key}): it does not belong to a namespace of the container's own",
                "net.* (not with --network=host), fs.mqueue.* and those of System V IPC (not with --ipc=host) can be",
            )


def _path(key: str) -> str:
    """The path below /proc/sys. As sysctl(8): if the first separator is a dot, dots and slashes change places."""
    first = next((character for character in key if character in "./"), "")
    return key.translate({ord("."): "/", ord("/"): "."}) if first == "." else key


def _is_own(parts: list[str], own: set[str]) -> bool:
    if "" in parts or ".." in parts or "." in parts:
        return False
    if parts[0] == "net":
        return len(parts) > 1 and "network" in own
    if parts[0] == "kernel" and len(parts) == 2:
        return "ipc" in own if parts[1] in _IPC else parts[1] == "domainname" and "uts" in own
    return parts[:2] == ["fs", "mqueue"] and len(parts) > 2 and "ipc" in own


def apply(setup: Setup) -> None:
    """Write them through the host's /proc, which the container cannot have prepared; it shows our namespaces."""
    for key, value in (setup.linux.get("sysctl") or {}).items():
        what = f"set sysctl {key}={value} (linux.sysctl.{key})"
        try:
            if _path(key) == "kernel/domainname":
                ns.setdomainname(str(value))  # the file is for root of the first user namespace only
                continue
            fd = os.open(f"/proc/sys/{_path(key)}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if fs.fs_type(fd) != fs.PROC_SUPER_MAGIC:
                    raise RlError(f"{what}: /proc is not a procfs")
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
        except OSError as error:
            hint = "this kernel has no such parameter" if error.errno == errno.ENOENT else ""
            raise RlError(f"{what}: {error.strerror}", hint) from None
