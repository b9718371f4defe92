"""Names and bit masks of capabilities(7), and applying an OCI ``process.capabilities``."""

from __future__ import annotations

import errno

from rl.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: By number (linux/capability.h).
NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)
_NUMBER = {f"CAP_{name}": number for number, name in enumerate(NAMES)}


def mask_of(names: list[str]) -> int:
    """The bit mask of capability *names*; names this table does not know are left out (runtime.md: warn, go on)."""
    mask = 0
    for name in names:
        number = _NUMBER.get(name.upper())
        if number is not None:
            mask |= 1 << number
    return mask


def unknown(capabilities: dict[str, Any]) -> list[str]:
    """Warnings for the names in an OCI ``process.capabilities`` that this table or this kernel does not know."""
    left_out: dict[str, None] = {}
    for kind in Sets.__slots__:
        for name in capabilities.get(kind) or ():
            number = _NUMBER.get(name.upper())
            if number is None or (number > _LAST_OLD and not _kernel_knows(number)):
                left_out[name] = None
    return [f"capabilities unknown here are left out: {' '.join(left_out)}"] if left_out else []


_LAST_OLD = 37  # AUDIT_READ, Linux 3.16: every kernel that rl runs on has those before it


def _kernel_knows(number: int) -> bool:
    try:
        process.prctl(process.PR_CAPBSET_READ, number)
    except OSError:
        return False
    return True


class Sets:
    """The five sets of an OCI ``process.capabilities`` as bit masks; a missing set is empty."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, capabilities: dict[str, Any] | None) -> None:
        given = capabilities or {}
        self.bounding = mask_of(given.get("bounding") or [])
        self.effective = mask_of(given.get("effective") or [])
        self.permitted = mask_of(given.get("permitted") or [])
        self.inheritable = mask_of(given.get("inheritable") or [])
        self.ambient = mask_of(given.get("ambient") or [])


def limit_bounding(sets: Sets) -> None:
    """Drop from the bounding set what is not in it; needs CAP_SETPCAP, so before the user changes."""
    for number in range(64):
        if not sets.bounding >> number & 1:
            try:
                process.prctl(process.PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return  # beyond the last capability of this kernel


def apply(sets: Sets) -> None:
    """Set effective, permitted, inheritable and ambient; as the new user, with permitted kept (PR_SET_KEEPCAPS)."""
    known = process.capget()[1]  # a full set here: the kernel's own list
    permitted = sets.permitted & known
    process.capset(sets.effective & permitted, permitted, sets.inheritable & known)
    process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_CLEAR_ALL)
    ambient = sets.ambient & permitted & sets.inheritable
    for number in range(len(NAMES)):
        if ambient >> number & 1:
            process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number)
