"""`rl-runtime spec`: a config.json to start from, with the content runc and crun write."""

from __future__ import annotations

import os

from rl.errors import ConflictError, RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_SAFE = ("nosuid", "noexec", "nodev")
#: destination, type, source, options
_MOUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", (*_SAFE, "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", _SAFE),
    ("/sys", "sysfs", "sysfs", (*_SAFE, "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", (*_SAFE, "relatime", "ro")),
)
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/tpm",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def document(rootless: bool, uid: int, gid: int) -> dict[str, Any]:
    """The specification; *rootless*: for a user without root, whose *uid* and *gid* become 0 inside."""
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        kinds.append("cgroup")  # cgroup v1 would show the host's tree in it
    linux: dict[str, Any] = {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}
    if rootless:
        # No limits: a user has no cgroup by default. The network stays the host's: there is nothing to make another.
        kinds = [*(kind for kind in kinds if kind != "network"), "user"]
        linux = {
            "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
        }
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    linux["maskedPaths"] = list(_MASKED)
    linux["readonlyPaths"] = list(_READONLY)
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "rl-runtime",
        "mounts": [_mount(*entry, rootless) for entry in _MOUNTS],
        "linux": linux,
    }


def _mount(destination: str, kind: str, source: str, options: tuple[str, ...], rootless: bool) -> dict[str, Any]:
    chosen = list(options)
    if rootless:
        # Only id 0 is mapped, and a sysfs shows the network namespace, which is not the user's.
        chosen = [option for option in options if not option.startswith(("gid=", "uid="))]
        if destination == "/sys":
            kind, source, chosen = "none", "/sys", ["rbind", *chosen]
    entry: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if chosen:
        entry["options"] = chosen
    return entry


def write(bundle: str, rootless: bool) -> str:
    """Write ``config.json`` into directory *bundle* for the caller; returns its path.

    Raises ConflictError when there is one already, RlError when it cannot be written.
    """
    import json  # makes it readable, which is what a template is for

    path = os.path.join(bundle, "config.json")
    text = json.dumps(document(rootless, os.geteuid(), os.getegid()), indent="\t") + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise ConflictError("File config.json exists. Remove it first") from None  # the words of runc
    except OSError as error:
        raise RlError(f"create {path}: {error.strerror}") from None
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        os.unlink(path)
        raise RlError(f"write {path}: {error.strerror}") from None
    return path
