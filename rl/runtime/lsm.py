"""Labels of the Linux security modules: AppArmor profile and SELinux label of a process.

A label is written to a file of /proc and takes effect at the next exec. The container's own /proc may be masked,
missing or prepared by somebody (CVE-2019-16884, CVE-2025-52881), so the caller's /proc is used, by a descriptor taken
before anything of the container is mounted, and nothing below it may be another mount.

Called by :mod:`rl.runtime.process` and :mod:`rl.runtime.child`, imported only where a label is asked for. A host
without the security module is no error: the label means nothing there, which is said in a warning.
Source: OCI runtime specification, config.md "Linux Process"; kernel Documentation/admin-guide/LSM.
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError
from rl.kernel import fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROC = "/proc"
SYS = "/sys"

_SELINUX_MAGIC = 0xF97CFF8C  # linux/magic.h
_RESOLVE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_MAGICLINKS | fs.RESOLVE_NO_XDEV


class Labels:
    """What to write: "" where nothing is; at least one is not empty."""

    __slots__ = ("apparmor", "selinux")

    def __init__(self, apparmor: str, selinux: str) -> None:
        self.apparmor = apparmor
        self.selinux = selinux


def apparmor_enabled() -> bool:
    """Whether this kernel confines by AppArmor profiles."""
    try:
        with open(f"{SYS}/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether this kernel runs an SELinux policy: only then selinuxfs is mounted."""
    try:
        fd = os.open(f"{SYS}/fs/selinux", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fs.fs_type(fd) == _SELINUX_MAGIC
    finally:
        os.close(fd)


def wanted(process: dict[str, Any], warnings: list[str]) -> Labels | None:
    """The labels of *process* that this host knows, None without any; what it does not know becomes a warning."""
    profile, label = str(process.get("apparmorProfile") or ""), str(process.get("selinuxLabel") or "")
    if profile and not apparmor_enabled():
        if profile != "unconfined":
            warnings.append(f"AppArmor profile {profile!r} is not applied: this host has no AppArmor")
        profile = ""
    if label and not selinux_enabled():
        warnings.append(f"SELinux label {label!r} is not applied: this host has no SELinux")
        label = ""
    return Labels(profile, label) if profile or label else None


def open_proc() -> int:
    """An O_PATH descriptor of the caller's /proc. Raises RlError when something else is mounted there."""
    fd = os.open(PROC, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not is_procfs(fd):
        os.close(fd)
        raise RlError(f"{PROC} is not a procfs: security labels cannot be set", f"mount -t proc proc {PROC}")
    return fd


def is_procfs(fd: int) -> bool:
    """Whether *fd* is a file of procfs."""
    return fs.fs_type(fd) == fs.PROC_SUPER_MAGIC


def apply(labels: Labels, proc: int) -> None:
    """Let the next exec of this thread take on *labels*; *proc* is :func:`open_proc`'s. Raises RlError."""
    if labels.selinux:
        what = f"set SELinux label {labels.selinux!r} (process.selinuxLabel)"
        _write(proc, ("thread-self/attr/exec",), labels.selinux, what, "the host's policy must know this label")
    if labels.apparmor and not (labels.apparmor == "unconfined" and _is_unconfined(proc)):
        what = f"set AppArmor profile {labels.apparmor!r} (process.apparmorProfile)"
        # The directory of its own came with Linux 5.8; the file above it belongs to whichever module is first.
        files = ("self/attr/apparmor/exec", "self/attr/exec")
        _write(proc, files, f"exec {labels.apparmor}", what, "load the profile with apparmor_parser, or name another")


def label_keyring(labels: Labels, proc: int, present: bool) -> None:
    """Give keyrings made from here on the process's SELinux label; *present* False: no more."""
    if labels.selinux:
        what = f"label the keyring {labels.selinux!r} (process.selinuxLabel)"
        _write(proc, ("self/attr/keycreate",), labels.selinux if present else "", what, "")


def _is_unconfined(proc: int) -> bool:
    for path in ("self/attr/apparmor/current", "self/attr/current"):
        try:
            fd = fs.openat2(proc, path, os.O_RDONLY, 0, _RESOLVE)
        except OSError:
            continue
        try:
            return os.read(fd, 64).rstrip(b"\n\0") == b"unconfined"
        except OSError:
            return False
        finally:
            os.close(fd)
    return False


def _write(proc: int, paths: tuple[str, ...], text: str, what: str, hint: str) -> None:
    """Write *text* to the first of *paths* that exists."""
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in paths:
        try:
            fd = fs.openat2(proc, path, os.O_WRONLY, 0, _RESOLVE)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = error
            if error.errno == errno.EXDEV:
                hint = f"something is mounted over {PROC}/{path}: unmount it"
            break
        try:
            os.write(fd, text.encode())
            return
        except OSError as error:
            problem = error
            break
        finally:
            os.close(fd)
    raise RlError(f"{what}: {problem.strerror}", hint)
