"""tmpfs and ramfs that begin with what the image has at their mount point, or that have an owner.

Called by :mod:`rl.runtime.mounts`; imported only where a container asks for one.
"""

from __future__ import annotations

import os
import stat

from rl.runtime import copyup, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.runtime.mounts import Job


def ramfs(job: Job) -> None:
    """As a tmpfs; owner and group are no options of this file system, which knows a mode only."""
    owner = {"uid": -1, "gid": -1}
    for item in list(job.options.data):
        key, _, value = item.partition("=")
        if key in owner and value.isdigit():
            owner[key] = int(value)
            job.options.data.remove(item)
    if job.options.copy_up:
        filled(job, owner["uid"], owner["gid"])
        return
    if job.existed and "mode=" not in ",".join(job.options.data):
        job.options.data.append(f"mode={stat.S_IMODE(os.fstat(job.target).st_mode):o}")
    fd = mounts.new_labelled(job, mounts.data_of(job))
    _own(fd, owner["uid"], owner["gid"])
    job.place(fd)


def filled(job: Job, uid: int = -1, gid: int = -1) -> None:
    """Mount it with a copy of what is there now (tmpcopyup). Raises OSError."""
    given = {item.partition("=")[0] for item in job.options.data}
    given |= {name for name, number in (("uid", uid), ("gid", gid)) if number >= 0}
    old = os.open(f"/proc/self/fd/{job.target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = mounts.new_labelled(job, mounts.data_of(job))
        try:
            copyup.copy_tree(
                old, fd, keep_owner="uid" not in given and "gid" not in given, keep_mode="mode" not in given
            )
        except BaseException:
            os.close(fd)
            raise
    finally:
        os.close(old)
    _own(fd, uid, gid)
    job.place(fd)


def _own(fd: int, uid: int, gid: int) -> None:
    """The root of detached mount *fd* to the owner; -1 leaves it."""
    if uid >= 0 or gid >= 0:
        try:
            os.chown(".", uid, gid, dir_fd=fd)
        except OSError:
            os.close(fd)
            raise
