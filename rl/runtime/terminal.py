"""The pseudo terminal of a container's process, opened on the container's own devpts.

Called by the child's steps (create) and by :mod:`rl.runtime.exec`; the master crosses to the parent over the
socket pair. Source: pty(7), ioctl_tty(2); TIOCGPTPEER so that no name is resolved (CVE-2025-52565).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from rl.errors import RlError
from rl.runtime import rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_pair(root: int, process: dict[str, Any]) -> tuple[int, int]:
    """(master, slave) from /dev/pts/ptmx below *root*; sized by ``process.consoleSize``, owned by its user."""
    try:
        master = rootpath.resolve(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        hint = "mount a devpts on /dev/pts" if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
        raise RlError(f"open the container's /dev/pts/ptmx: {error.strerror}", hint) from None
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        os.close(master)
        raise RlError(f"open a terminal in the container: {error.strerror}", "/dev/pts must be a devpts") from None
    set_size(slave, process.get("consoleSize") or {})
    user = process.get("user") or {}
    try:
        os.fchown(slave, user.get("uid", 0), -1)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
    return master, slave


def set_size(fd: int, size: dict[str, int]) -> None:
    """Set the window size of terminal *fd*; zero or missing values leave it as it is."""
    rows, columns = size.get("height", 0), size.get("width", 0)
    if rows or columns:
        fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))


def bind_console(root: int, slave: int) -> None:
    """Make /dev/console the terminal *slave*. Needs the caller's /proc, so it runs before pivot_root.

    A symbolic link of the image there is itself covered: it leads the mount nowhere (CVE-2025-52565).
    """
    from rl.kernel import mount as m  # imported by rl.runtime.child already; exec does without

    target = rootpath.ensure_nofollow(root, "/dev/console", directory=False)
    try:
        copy = m.open_tree(f"/proc/self/fd/{slave}", m.OPEN_TREE_CLONE)
        try:
            m.move_mount(copy, "", target)
        finally:
            os.close(copy)
    finally:
        os.close(target)


def take(slave: int) -> None:
    """Make *slave* the controlling terminal of this session leader and its stdin, stdout, stderr."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd, inheritable=True)
