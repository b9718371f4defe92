"""A container's writable layer. Called by the engine and the monitor, inside the user namespace."""

from __future__ import annotations

import os
import stat

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths


def prepare(paths: Paths, container_dir: str, lowers: list[str]) -> tuple[str, str, str]:
    """Make ``upper``, ``work`` and ``rootfs`` in *container_dir*; returns their paths. Nothing to do is fine.

    The root directory that the container sees is ``upper``: it gets owner and mode of the topmost
    layer's (*lowers*, top first). Raises RlError.
    """
    upper, work, rootfs = (f"{container_dir}/{name}" for name in ("upper", "work", "rootfs"))
    try:
        for path in (work, rootfs):
            _mkdir(path)
        if not os.path.isdir(upper):
            staging = f"{upper}.new"
            _mkdir(staging)
            uid = gid = 0
            mode = 0o755
            if lowers:
                status = os.stat(lowers[0])
                uid, gid, mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
            if uid or gid:
                os.chown(staging, uid, gid)
            os.chmod(staging, mode)
            os.rename(staging, upper)
    except OSError as error:
        raise RlError(
            f"make the writable layer in {container_dir}: {error.strerror}",
            f"is there space, and may you write, in {paths.data}?",
        ) from None
    return upper, work, rootfs


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
