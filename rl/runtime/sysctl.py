"""``linux.sysctl``: kernel parameters of the namespaces that the container has for itself.

Checked before the container is made (:func:`check`), written from inside its namespaces (:func:`apply`). Imported
only where sysctls are asked for. Any other parameter would change the host, where the runtime runs as real root.
Source: OCI runtime specification, config-linux.md "Sysctl"; namespaces(7).
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UsageError
from rl.kernel import namespaces as ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rl.runtime.sync import Setup

#: The part of kernel.* that belongs to the IPC namespace (ipc/ipc_sysctl.c).
_IPC = frozenset(
    ("auto_msgmni", "msg_next_id", "msgmax", "msgmnb", "msgmni", "sem", "sem_next_id", "shm_next_id", "shm_rmid_forced",
     "shmall", "shmmax", "shmmni")
)
#: In the UTS namespace. Their files are for root of the first user namespace only, the calls are not.
_NAMES = {"kernel/hostname": ns.sethostname, "kernel/domainname": ns.setdomainname}
_FILES = {"network": "net", "ipc": "ipc", "uts": "uts"}


def namespace_of(key: str) -> str:
    """The type of namespace that sysctl *key* (net.ipv4.ip_forward, net/ipv4/ip_forward) belongs to; "": to none."""
    parts = _path(key).split("/")
    if len(parts) < 2 or not {"", ".", ".."}.isdisjoint(parts):
        return ""
    if parts[0] == "net":
        return "network"
    if parts[0] == "kernel" and len(parts) == 2:
        return "ipc" if parts[1] in _IPC else "uts" if "/".join(parts) in _NAMES else ""
    return "ipc" if parts[:2] == ["fs", "mqueue"] and len(parts) > 2 else ""


def _path(key: str) -> str:
    """The path below /proc/sys. As sysctl(8): if the first separator is a dot, dots and slashes change places."""
    first = next((character for character in key if character in "./"), "")
    return key.translate({ord("."): "/", ord("/"): "."}) if first == "." else key


def check(setup: Setup, new: Iterable[str]) -> None:
    """Refuse what does not belong to a namespace of the container's own; *new* are the types of those it gets new.

    Runs in the caller's namespaces: one that the specification names by path may be the caller's.
    """
    own = set(new)
    for kind, name in _FILES.items():
        if kind in setup.fds and not os.path.samestat(os.fstat(setup.fds[kind]), os.stat(f"/proc/self/ns/{name}")):
            own.add(kind)
    for key in setup.linux.get("sysctl") or {}:
        kind = namespace_of(key)
        if kind not in own:
            raise RlError(
                f"set sysctl {key} (linux.sysctl.{key}): it does not belong to a namespace of the container's own",
                "net.* (not with --network=host), fs.mqueue.* and those of System V IPC (not with --ipc=host) can be",
            )
        name = _path(key).rpartition("/")[2]
        if kind == "uts" and setup.spec.get(name):
            raise UsageError(f"set sysctl {key} (linux.sysctl.{key}): {name} sets this already", "leave out one")


def apply(setup: Setup) -> None:
    """Write them through the host's /proc, which the container cannot have prepared; it shows our namespaces."""
    for key, value in (setup.linux.get("sysctl") or {}).items():
        what = f"set sysctl {key}={value} (linux.sysctl.{key})"
        try:
            if _path(key) in _NAMES:
                _NAMES[_path(key)](str(value))
                continue
            ns.write_proc(f"/proc/sys/{_path(key)}", str(value))
        except OSError as error:
            hint = "this kernel has no such parameter" if error.errno == errno.ENOENT else ""
            raise RlError(f"{what}: {error.strerror}", hint) from None
