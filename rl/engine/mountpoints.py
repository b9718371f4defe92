"""What a launch mounts itself before the container's runtime binds it: overlays (option O), images, parts of either.

Runs in the monitor, in the shared user namespace; each lies at ``containers/<id>/mounts/<n>/`` and ends with the
monitor's mount namespace. A source is opened once and used by its descriptor; a path in an image or a volume is
resolved inside it, so no symbolic link there leads to the host (CVE-2021-30465).
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError, UnsupportedError, disk_hint
from rl.kernel import fs
from rl.kernel import mount as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ContainerConfig, MountSpec
    from rl.config.paths import Paths
    from rl.engine import rootfs
    from rl.engine.rootfs import Note
    from rl.storage.driver import Driver


class Mountpoints:
    """Makes them; what has to be undone goes to *undo*, processes that serve a mount to ``pids``."""

    def __init__(
        self, paths: Paths, config: ContainerConfig, driver: Driver, undo: list[Callable[[], object]], note: Note
    ) -> None:
        self.paths = paths
        self.config = config
        self.driver = driver
        self.undo = undo
        self.note = note
        self.pids: list[int] = []

    def source(self, number: int, spec: MountSpec, source: str, owner: tuple[int, int]) -> str:
        """The path to bind for mount *number* of the container, whose data is at *source*.

        *owner* is the container's user, in ids of the shared namespace. Raises RlError.
        """
        base = f"{self.paths.container(self.config['id'])}/mounts/{number}"
        try:
            if spec["type"] == "image":
                source = self._image(base, spec)
            if spec.get("subpath"):
                source = self._part(base, source, spec)
            if spec.get("overlay"):
                source = self._overlay(base, source, spec)
        except OSError as error:
            what = f"mount on {spec['destination']}: {error.filename or source}: {error.strerror}"
            raise RlError(what, disk_hint(error)) from None
        if "U" in spec["options"] and source:
            self._give(source, owner, spec)
        return source

    def _overlay(self, base: str, source: str, spec: MountSpec) -> str:
        """Option O: the source below, what is written in ``upper``; that is emptied now unless it is the user's own."""
        from rl.storage import trash

        upper, work, target = spec.get("upper", ""), spec.get("work", ""), f"{base}/merged"
        lower = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(lower)
            _check_readable(lower, source, spec)
            if upper:
                self._check_own(upper, work, spec)
            else:
                upper, work = f"{base}/upper", f"{base}/work"
                trash.remove_tree(upper)
                trash.remove_tree(work)
                os.makedirs(work, 0o700)
                os.mkdir(upper, 0o700)
                os.chown(upper, _mapped(status.st_uid), _mapped(status.st_gid))
                os.chmod(upper, stat.S_IMODE(status.st_mode))
            os.makedirs(target, 0o700, exist_ok=True)
            return self._mount([f"/proc/self/fd/{lower}"], upper, work, target)
        finally:
            os.close(lower)

    def _check_own(self, upper: str, work: str, spec: MountSpec) -> None:
        for option, path in (("upperdir", upper), ("workdir", work)):
            if not os.path.isdir(path):
                raise RlError(f"mount on {spec['destination']}: {option} {path}: no such directory", f"mkdir -p {path}")
        if os.stat(upper).st_dev != os.stat(work).st_dev or f"{work}/".startswith(f"{upper}/"):
            raise RlError(
                f"mount on {spec['destination']}: workdir must be on the file system of upperdir, and not below it",
                "make it beside the other directory",
            )

    def _image(self, base: str, spec: MountSpec) -> str:
        from rl.engine import rootfs

        target = f"{base}/image"
        os.makedirs(target, 0o700, exist_ok=True)
        # As a root file system of the container: its id maps hold for these files, too.
        config: ContainerConfig = {
            **self.config, "layers": spec["layers"], "image_id": spec["image_id"], "image": spec["source"],
        }
        stack = rootfs.stack(self.paths, self.driver, config, self.note)
        if "ro" in spec["options"]:
            return self._mount(stack.lowers, "", "", target, stack)
        upper, work = f"{base}/upper", f"{base}/work"
        for path in (upper, work):
            os.makedirs(path, 0o700, exist_ok=True)
        status = os.stat(stack.lowers[0])
        os.chown(upper, status.st_uid, status.st_gid)
        os.chmod(upper, stat.S_IMODE(status.st_mode))
        return self._mount(stack.lowers, upper, work, target, stack)

    def _mount(self, lowers: list[str], upper: str, work: str, target: str, stack: rootfs.Stack | None = None) -> str:
        mounted = self.driver.mount(
            lowers, upper, work, target, data=stack.data if stack else (), id_maps=stack.id_maps if stack else None
        )
        self.undo.append(lambda: self.driver.unmount(mounted))
        self.pids += mounted["pids"]
        return target

    def _part(self, base: str, source: str, spec: MountSpec) -> str:
        """A bind of what *source* has at the subpath, found without leaving *source*."""
        root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = fs.openat2(root, spec["subpath"], os.O_PATH, 0, fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            raise RlError(
                f"mount on {spec['destination']}: subpath {spec['subpath']!r} of {spec['source'][:64]}: "
                f"{error.strerror}",
                "it must be there before the container starts" if error.errno == errno.ENOENT else "",
            ) from None
        finally:
            os.close(root)
        target = f"{base}/part"
        try:
            os.makedirs(base, 0o700, exist_ok=True)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                os.makedirs(target, 0o700, exist_ok=True)
            else:
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            tree = m.open_tree("", m.OPEN_TREE_CLONE | m.AT_EMPTY_PATH, found)
            try:
                m.move_mount(tree, target)
            finally:
                os.close(tree)
        finally:
            os.close(found)
        self.undo.append(lambda: m.umount(target, m.MNT_DETACH | m.UMOUNT_NOFOLLOW))
        return target

    def _give(self, source: str, owner: tuple[int, int], spec: MountSpec) -> None:
        from rl.storage import ownership

        try:
            ownership.give(source, *owner)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise RlError(f"mount on {spec['destination']}: U: {error.filename}: {error.strerror}") from None
            from rl.runtime import access

            raise UnsupportedError(
                f"mount on {spec['destination']}: U: change the owner of {error.filename}: {error.strerror}; "
                f"{access.owner_of(error.filename or source)}",
                "only files of your own and of your subordinate ids can be given away",
            ) from None


def _check_readable(lower: int, source: str, spec: MountSpec) -> None:
    """An overlay over a directory that we cannot read would be empty, without a word."""
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=lower))
    except PermissionError as error:
        from rl.runtime import access

        raise UnsupportedError(
            f"mount on {spec['destination']}: read {source}: {error.strerror}: {access.owner_of(source)}",
            "ask its owner for `chmod o+rx`, or use a directory of your own",
        ) from None


def _mapped(number: int) -> int:
    """An owner that is not in the map cannot be given on: then the caller."""
    from rl.runtime import access

    return number if access.is_mapped(number) else 0
