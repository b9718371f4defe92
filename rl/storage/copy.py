"""Root file systems by copying: works on any file system, without FUSE and without overlay.

The copy is made once, into the container's ``upper`` directory, and shown at the mount point; it
persists between starts as an upper directory does. On btrfs, XFS and bcachefs files share their extents.
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError
from rl.storage import mounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.paths import Paths
    from rl.storage.driver import IdMaps, Mounted


class Copy:
    """The rung that is always there."""

    name = "copy"

    def probe(self, paths: Paths) -> str:
        """A copy needs a writable directory and a bind mount; both are tried."""
        return mounting.probe(self, paths)

    def mount(
        self, lowers: list[str], upper: str, work: str, target: str, *, readonly: bool = False, volatile: bool = True,
        data: Sequence[str] = (), id_maps: IdMaps | None = None,
    ) -> Mounted:
        """See :class:`rl.storage.driver.Driver`. Without *upper* the copy is made in *target* itself.

        *volatile* changes nothing: a copy is written as any file is.
        """
        try:
            if not upper:
                if not os.listdir(target):
                    _copy(lowers, target, id_maps)
                mounting.bind(target, target, readonly=True)
            else:
                _copy_once(lowers, upper, work, id_maps)
                mounting.bind(upper, target, readonly=readonly)
        except OSError as error:
            hint = "free disk space, or use --storage-driver overlay" if error.errno == errno.ENOSPC else ""
            raise RlError(f"copy {len(lowers)} layers for {target}: {error.strerror}", hint) from None
        return {"driver": self.name, "target": target, "pids": []}

    def unmount(self, mounted: Mounted) -> None:
        """See :class:`rl.storage.driver.Driver`."""
        mounting.detach(mounted["target"])


def _copy_once(lowers: list[str], upper: str, work: str, id_maps: IdMaps | None) -> None:
    """Fill *upper*, all or nothing: beside it first, then one rename over the empty directory."""
    from rl.storage.trash import remove_tree

    marker = f"{work}/copied"  # a container may remove every file it has
    if os.path.exists(marker) or os.listdir(upper):
        return
    staging = f"{upper}.copying"
    remove_tree(staging)
    _copy(lowers, staging, id_maps)
    os.rename(staging, upper)
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _copy(lowers: list[str], target: str, id_maps: IdMaps | None) -> None:
    from rl.storage.treecopy import Copier

    copier = Copier(apply_whiteouts=True)
    if id_maps:
        from rl.storage.idmap import owner_function

        copier.owner = owner_function(*id_maps)
        copier.namespace_root = copier.owner(0, 0)[0]
    for lower in reversed(lowers):
        copier.layer(lower, target)
