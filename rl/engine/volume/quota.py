"""A limit on the size of a volume: a project quota on its directory (XFS, ext4), which only root of the host may set.

Source: quotactl(2), ioctl FS_IOC_FSSETXATTR, xfs_quota(8) "project quotas".
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import quota
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths

_WHAT = "volume options size and inodes not supported"


def check(paths: Paths) -> None:
    """Raises UnsupportedError where no limit can be set, and says what is missing."""
    if userns.wanted_maps().mode != "root":
        raise UnsupportedError(
            f"{_WHAT}: the kernel lets only root of the host set a project quota (quotactl(2))",
            "limit a file system in memory with -o type=tmpfs -o o=size=…, or have root make one of that size and use "
            "it with -o type=none -o device=/path -o o=bind",
        )
    directory = os.open(paths.volumes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        quota.get(directory, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise UnsupportedError(f"{_WHAT}: quotactl_fd(2) needs Linux 5.14", "use a newer kernel") from None
        raise UnsupportedError(
            f"{_WHAT}. Filesystem does not support Project Quota: {error.strerror}",
            f"mount the file system of {paths.volumes} with the option prjquota (XFS, or ext4 with -O quota,project)",
        ) from None
    finally:
        os.close(directory)


def limit(path: str, size: int, inodes: int) -> None:
    """Let what is below the empty directory *path* take *size* bytes and *inodes* files at most; 0: no limit."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(64):
            project = int.from_bytes(os.urandom(4), "little") & 0x3FFFFFFF | 1 << 30
            used = quota.get(fd, project)
            if not any(used):
                break
        quota.set_project(fd, project)
        quota.set_limits(fd, project, size, inodes)
    except OSError as error:
        raise RlError(f"limit the size of the volume: {error.strerror}") from None
    finally:
        os.close(fd)
