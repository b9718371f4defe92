"""The kernel's overlay file system inside a user namespace (Linux 5.11, option ``userxattr``).

Layers are named to the kernel one by one (``lowerdir+``, Linux 6.5) or, on older kernels, through
/proc/self/fd: mount(2) takes one page of options, and 127 layers must fit.
"""

from __future__ import annotations

import os

from rl.errors import RlError
from rl.kernel import mount as m
from rl.storage import mounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.paths import Paths
    from rl.storage.driver import IdMaps, Mounted


class Overlay:
    """Kernel overlay; nothing but the mount itself has to be undone."""

    name = "overlay"

    def probe(self, paths: Paths) -> str:
        """A real mount in the data directory, with a whiteout and an opaque directory that must work."""
        return mounting.probe(self, paths)

    def mount(
        self, lowers: list[str], upper: str, work: str, target: str, *, readonly: bool = False, volatile: bool = True,
        data: Sequence[str] = (), id_maps: IdMaps | None = None,
    ) -> Mounted:
        """See :class:`rl.storage.driver.Driver`. Source: Documentation/filesystems/overlayfs.rst.

        *data* are data-only layers, top first, for the files without content in the lowest layer.
        """
        if not upper and len(lowers) == 1 and not data:  # overlay wants two
            mounting.bind(lowers[0], target, readonly=True)
            return {"driver": self.name, "target": target, "pids": []}
        flags = ["userxattr"]
        if upper:
            _forget_volatile(work)
            if volatile:
                flags.append("volatile")
        try:
            _mount_new(lowers, upper, work, target, flags, readonly, data)
        except OSError as first:
            try:
                if data:
                    raise
                _mount_old(lowers, upper, work, target, flags, readonly)
            except OSError:
                raise RlError(
                    f"mount the overlay of {len(lowers)} layers at {target}: {first.strerror}",
                    "try --storage-driver fuse-overlayfs or copy; `rl info` says which of them work here",
                ) from None
        return {"driver": self.name, "target": target, "pids": []}

    def unmount(self, mounted: Mounted) -> None:
        """See :class:`rl.storage.driver.Driver`."""
        mounting.detach(mounted["target"])


def probe_data_layers(paths: Paths) -> str:
    """Why an overlay in this user namespace cannot have data-only layers (Linux 6.16), "" when it can: tried."""
    from rl.storage import metatree
    from rl.storage.trash import remove_tree

    base = f"{paths.data}/.probe-data-{os.getpid()}"
    layer, tree, upper, work, target = (f"{base}/{name}" for name in ("fs", "tree", "upper", "work", "m"))
    os.mkdir(base, 0o700)
    try:
        for path in (layer, f"{layer}/d", upper, work, target):
            os.mkdir(path, 0o755)
        with open(f"{layer}/d/file", "w", encoding="utf-8") as file:
            file.write("content")
        metatree.make([layer], tree, lambda uid, gid: (uid, gid), 0)
        overlay = Overlay()
        mounted = overlay.mount([tree], upper, work, target, data=[layer])
        try:
            with open(f"{target}/d/file", "a+", encoding="utf-8") as file:
                file.seek(0)
                if file.read() != "content":
                    return "the kernel mixes up the content of files"
        finally:
            overlay.unmount(mounted)
    except RlError as error:
        return error.message
    except OSError as error:
        return str(error.strerror)
    finally:
        remove_tree(base)
    return ""


def _forget_volatile(work: str) -> None:
    """Allow a mount after a volatile one that was not unmounted.

    The kernel's mark says: not synced before a power loss, contents may be lost. A container's
    writable layer makes no other promise, and the mark would keep it from ever starting again.
    """
    mark = f"{work}/work/incompat/volatile"
    try:
        os.unlink(f"{mark}/dirty")
        os.rmdir(mark)
    except OSError:
        pass


def _mount_new(
    lowers: list[str], upper: str, work: str, target: str, flags: list[str], readonly: bool, data: Sequence[str]
) -> None:
    fds: list[int] = []
    context = m.fsopen("overlay")
    try:
        for flag in flags:
            m.fsconfig_flag(context, flag)
        for lower in lowers:
            m.fsconfig_string(context, "lowerdir+", _short(lower, fds))
        for lower in data:
            m.fsconfig_string(context, "datadir+", _short(lower, fds))
        if upper:
            m.fsconfig_string(context, "upperdir", _short(upper, fds))
            m.fsconfig_string(context, "workdir", _short(work, fds))
        m.fsconfig_create(context)
        mounted = m.fsmount(context, m.MOUNT_ATTR_RDONLY if readonly or not upper else 0)
        try:
            m.move_mount(mounted, target)
        finally:
            os.close(mounted)
    finally:
        os.close(context)
        for fd in fds:
            os.close(fd)


def _short(path: str, fds: list[int]) -> str:
    """*path*, or a name of it that fits fsconfig(2)'s 255 bytes; the fd it stands for goes to *fds*."""
    if len(os.fsencode(path)) <= 255:
        return path
    return mounting.fd_name(path, fds)


def _mount_old(lowers: list[str], upper: str, work: str, target: str, flags: list[str], readonly: bool) -> None:
    fds: list[int] = []
    try:
        options = flags + ["lowerdir=" + ":".join(mounting.fd_name(lower, fds) for lower in lowers)]
        if upper:
            options.append(f"upperdir={mounting.fd_name(upper, fds)}")
            options.append(f"workdir={mounting.fd_name(work, fds)}")
        m.mount("overlay", target, "overlay", m.MS_RDONLY if readonly or not upper else 0, ",".join(options))
    finally:
        for fd in fds:
            os.close(fd)
