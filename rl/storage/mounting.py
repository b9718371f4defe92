"""What the storage drivers share: bind mounts, unmounting, and the probe. Called by the drivers only."""

from __future__ import annotations

import errno
import os

from rl.kernel import mount as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.storage.driver import Driver


def fd_name(path: str, fds: list[int]) -> str:
    """A short name for *path*, free of ``:`` and ``,``; the fd it stands for is added to *fds*."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    fds.append(fd)
    return f"/proc/self/fd/{fd}"


def bind(source: str, target: str, *, readonly: bool) -> None:
    """Show directory *source* at *target*. Flags the source's mount has locked stay as they are."""
    tree = m.open_tree(source, m.OPEN_TREE_CLONE)
    try:
        if readonly:
            m.mount_setattr(tree, "", m.MOUNT_ATTR_RDONLY)
        m.move_mount(tree, target)
    finally:
        os.close(tree)


def detach(target: str) -> None:
    """Unmount *target* if it is mounted; a busy one disappears from the tree and ends with its last user."""
    try:
        m.umount(target, m.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EBUSY:
            m.umount(target, m.MNT_DETACH | m.UMOUNT_NOFOLLOW)
        elif error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def probe(driver: Driver, paths: Paths) -> str:
    """Mount two small layers with *driver* in the data directory and look: the reason it fails, or ""."""
    from rl.storage.trash import remove_tree
    from rl.storage.tree import make_opaque, make_whiteout

    base = f"{paths.data}/.probe-{driver.name}-{os.getpid()}"
    layer1, layer2, upper, work, target = (f"{base}/{name}" for name in ("l1", "l2", "upper", "work", "m"))
    os.mkdir(base, 0o700)
    try:
        for path in (layer1, layer2, f"{layer1}/d", f"{layer2}/d", upper, work, target):
            os.mkdir(path, 0o755)
        for path in (f"{layer1}/gone", f"{layer1}/d/hidden"):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        fd = os.open(layer2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            make_whiteout(b"gone", fd)
            make_opaque(b"d", fd)
        finally:
            os.close(fd)
        mounted = driver.mount([layer2, layer1], upper, work, target)
        try:
            if os.listdir(target) != ["d"] or os.listdir(f"{target}/d"):
                return "whiteouts do not work on this file system"
            os.mkdir(f"{target}/new")
            os.rmdir(f"{target}/d")
        finally:
            driver.unmount(mounted)
    except OSError as error:
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    finally:
        remove_tree(base)
    return ""
