"""Project quotas: quotactl_fd(2), Linux 5.14, and the project id of a directory (ioctl FS_IOC_FS{GET,SET}XATTR)."""

from __future__ import annotations

import ctypes
import fcntl
import struct

from rl.kernel import libc as k

_NR_QUOTACTL_FD = 443
_PRJQUOTA = 2
_Q_GETQUOTA, _Q_SETQUOTA = 0x800007, 0x800008
_QIF_BLIMITS, _QIF_ILIMITS = 1, 4
_FS_IOC_FSGETXATTR, _FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_BLOCK = 1024  # of quota limits
_DQBLK = "=QQQQQQQQI4x"  # struct if_dqblk: block limits and use, inode limits and use, two times, what is valid


def _command(command: int) -> int:
    return command << 8 | _PRJQUOTA


def get(fd: int, project: int) -> tuple[int, ...]:
    """(hard and soft limit in blocks, bytes used, hard and soft limit of inodes, inodes used). Raises OSError."""
    block = ctypes.create_string_buffer(struct.calcsize(_DQBLK))
    k.syscall(_NR_QUOTACTL_FD, fd, _command(_Q_GETQUOTA), project, ctypes.addressof(block))
    return struct.unpack(_DQBLK, block.raw)[:6]


def set_limits(fd: int, project: int, size: int, inodes: int) -> None:
    """The project may hold *size* bytes and *inodes* files; 0: no limit. Raises OSError."""
    blocks = (size + _BLOCK - 1) // _BLOCK
    data = struct.pack(_DQBLK, blocks, blocks, 0, inodes, inodes, 0, 0, 0, _QIF_BLIMITS | _QIF_ILIMITS)
    block = ctypes.create_string_buffer(data, len(data))
    k.syscall(_NR_QUOTACTL_FD, fd, _command(_Q_SETQUOTA), project, ctypes.addressof(block))


def set_project(fd: int, project: int) -> None:
    """Count directory *fd* to *project*, and what will be made in it too. Raises OSError."""
    attributes = bytearray(28)  # struct fsxattr: xflags, extsize, nextents, projid, cowextsize, padding
    fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, attributes)
    flags, extent, count, _, cow = struct.unpack_from("=IIIII", attributes)
    struct.pack_into("=IIIII", attributes, 0, flags | _INHERIT, extent, count, project, cow)
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, attributes)
