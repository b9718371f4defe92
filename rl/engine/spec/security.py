"""Capabilities, --security-opt, --ulimit, --sysctl, --device: what the container may do."""

from __future__ import annotations

import os

from rl.engine.spec.values import boolean, integer
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

#: capabilities(7), by number.
ALL_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)

#: containers.conf(5), default_capabilities.
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)

MASKED_PATHS = (
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/proc/interrupts", "/sys/devices/virtual/powercap", "/sys/firmware",
    "/sys/fs/selinux", "/sys/dev/block",
)
READONLY_PATHS = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def capability(name: str, flag: str) -> str:
    """``net_raw`` → ``CAP_NET_RAW``."""
    full = name.upper()
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full not in ALL_CAPABILITIES:
        raise UsageError(f"{flag}: {name!r} is not a capability", "capabilities(7) lists them: NET_RAW, SYS_PTRACE, …")
    return full


def host_capabilities() -> tuple[str, ...]:
    """What this kernel knows: all names up to /proc/sys/kernel/cap_last_cap."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
            last = int(file.read())
    except (OSError, ValueError):
        last = len(ALL_CAPABILITIES) - 1
    return ALL_CAPABILITIES[: last + 1]


def capabilities(add: Iterable[str], drop: Iterable[str], privileged: bool) -> tuple[list[str], list[str]]:
    """(bounding set, those added by name) of --cap-add, --cap-drop, --privileged.

    Raises UsageError for a capability that is both added and dropped, as Podman does.
    """
    added = [capability(name, "--cap-add") if name.lower() != "all" else "ALL" for name in add]
    dropped = [capability(name, "--cap-drop") if name.lower() != "all" else "ALL" for name in drop]
    for name in added:
        if name in dropped:
            raise UsageError(f"capability {name} cannot be both added and dropped")
    known = host_capabilities()
    base: Iterable[str] = known if privileged or "ALL" in added else DEFAULT_CAPABILITIES
    if "ALL" in dropped:
        base = ()
    bounding = [name for name in base if name not in dropped]
    bounding += [name for name in added if name != "ALL" and name not in bounding and name in known]
    return bounding, (list(known) if "ALL" in added else [name for name in added if name != "ALL"])


class SecurityOptions:
    """--security-opt, taken apart."""

    __slots__ = ("apparmor", "mask", "no_new_privileges", "proc", "seccomp", "unmask")

    def __init__(self) -> None:
        self.no_new_privileges = False
        self.apparmor = ""  # a profile; the runtime warns where the host has none
        self.seccomp = ""  # "" (the default profile) | unconfined | a file
        self.proc: list[str] = []  # mount options of /proc
        self.mask: list[str] = []
        self.unmask: list[str] = []


def security_options(items: Iterable[str]) -> SecurityOptions:
    """Raises UsageError for unknown options, UnsupportedError for labels this host cannot apply."""
    result = SecurityOptions()
    for item in items:
        separator = "=" if "=" in item else ":"
        key, given, value = item.partition(separator)
        if key == "no-new-privileges":
            result.no_new_privileges = boolean(value, "--security-opt no-new-privileges") if given else True
        elif key == "seccomp" and value:
            result.seccomp = value
        elif key == "mask" and value:
            result.mask += value.split(":")
        elif key == "unmask" and value:
            result.unmask += value.split(":")
        elif key == "systempaths" and value == "unconfined":  # Docker's word
            result.unmask.append("ALL")
        elif key == "proc-opts" and value:
            result.proc += value.split(",")
        elif key == "label":
            if value != "disable" and not os.path.isdir("/sys/fs/selinux/booleans"):
                hint = "leave it out, or use label=disable"
                raise UnsupportedError(f"--security-opt {item}: this host has no SELinux", hint)
            if value != "disable":
                raise UnsupportedError(f"--security-opt {item}: rl applies no SELinux labels", "use label=disable")
        elif key == "apparmor" and value:
            result.apparmor = value
        else:
            raise UsageError(
                f"--security-opt: {item!r} is not known",
                "use no-new-privileges, seccomp=FILE|unconfined, mask=PATH, unmask=PATH|ALL, proc-opts=OPTIONS,"
                " apparmor=PROFILE or label=disable",
            )
    return result


def paths_to_hide(options: SecurityOptions, privileged: bool) -> tuple[list[str], list[str]]:
    """(masked, read-only) paths; --privileged and unmask=ALL leave none but those masked by name."""
    if privileged:
        return [], []
    masked, readonly = list(MASKED_PATHS), list(READONLY_PATHS)
    for pattern in options.unmask:
        if pattern.upper() == "ALL":
            masked, readonly = [], []
        else:
            masked = [path for path in masked if not _matches(path, pattern)]
            readonly = [path for path in readonly if not _matches(path, pattern)]
    return masked + [path for path in options.mask if path not in masked], readonly


def _matches(path: str, pattern: str) -> bool:
    if "*" in pattern or "?" in pattern or "[" in pattern:
        import fnmatch

        return fnmatch.fnmatchcase(path, pattern)
    return path == pattern.rstrip("/")


_RLIMITS = ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
            "rtprio", "rttime", "sigpending", "stack")
_RLIM_INFINITY = 2**64 - 1


def ulimits(items: Iterable[str]) -> list[dict[str, Any]]:
    """OCI ``process.rlimits`` of ``--ulimit NAME=SOFT[:HARD]``; -1 is unlimited. ``host`` keeps the caller's."""
    result: list[dict[str, Any]] = []
    for item in items:
        if item == "host":
            continue  # nothing is changed unless asked: the container has the caller's limits
        name, equals, values = item.partition("=")
        name = name.lower().removeprefix("rlimit_")
        soft, colon, hard = values.partition(":")
        if name not in _RLIMITS or not equals:
            raise UsageError(f"--ulimit: {item!r} is not a limit", "write NAME=SOFT[:HARD], such as nofile=1024:2048")
        limits = [
            _RLIM_INFINITY if value in ("-1", "unlimited") else integer(value, f"--ulimit {name}", 0)
            for value in (soft, hard if colon else soft)
        ]
        if max(limits) > _RLIM_INFINITY:
            raise UsageError(f"--ulimit {item!r}: the limit is too large", "write -1 for no limit")
        if limits[0] > limits[1]:
            raise UsageError(f"--ulimit {item!r}: the soft limit is above the hard limit")
        result.append({"type": f"RLIMIT_{name.upper()}", "soft": limits[0], "hard": limits[1]})
    return result


_SYSCTL_IPC = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
               "kernel.shmmni", "kernel.shm_rmid_forced")


def check_sysctls(sysctls: Mapping[str, str], network: str, ipc: str) -> None:
    """Only namespaced sysctls, and only where the container has that namespace of its own."""
    for key in sysctls:
        name = key.replace("/", ".")
        if name.startswith("net."):
            if network == "host":
                raise UsageError(f"--sysctl {key} cannot be set with --network=host")
        elif name in _SYSCTL_IPC or name.startswith("fs.mqueue."):
            if ipc == "host":
                raise UsageError(f"--sysctl {key} cannot be set with --ipc=host")
        else:
            raise UsageError(f"--sysctl {key} is not namespaced, so it cannot be set for one container",
                             "net.*, fs.mqueue.* and the System V IPC settings of kernel.* can")


def device(text: str) -> tuple[str, str, str]:
    """(host path, container path, permissions) of ``--device HOST[:CONTAINER][:rwm]``."""
    parts = text.split(":")
    host = parts[0]
    target, permissions = host, "rwm"
    rest = parts[1:]
    if rest and rest[-1] and set(rest[-1]) <= set("rwm"):
        permissions = rest.pop()
    if rest:
        target = rest.pop(0)
    if rest or not host.startswith("/") or not target.startswith("/"):
        hint = "write /dev/HOST[:/dev/CONTAINER][:rwm], or VENDOR/CLASS=NAME"
        raise UsageError(f"--device: {text!r} is not a device", hint)
    return host, target, permissions


def check_device(text: str) -> None:
    """For `create`: the device exists, and what --device withholds the user has not anyway.

    Raises UsageError, UnsupportedError.
    """
    host, _, permissions = device(text)
    if not os.path.exists(host):
        raise UsageError(f"--device {host}: no such file or directory")
    if not os.access(host, os.R_OK) and not os.access(host, os.W_OK):
        from rl.runtime.access import owner_of

        raise UnsupportedError(
            f"--device {host}: permission denied: {owner_of(host)}; the container has no other rights than you",
            "become a member of its group (sudo usermod -aG GROUP USER), or have its owner open it",
        )
    # The node itself is mounted, and a device cgroup is not ours to set: what its permissions give cannot be narrowed.
    for letter, access, word in (("r", os.R_OK, "read"), ("w", os.W_OK, "write")):
        if letter not in permissions and os.access(host, access):
            raise UnsupportedError(
                f"--device {text}: the container could {word} {host} all the same",
                "without root, a container has the rights that the user has: leave the permissions out",
            )
