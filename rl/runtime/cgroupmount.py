"""The cgroup mount of a container: its own part of cgroup v2, whatever the host permits.

Called by :mod:`rl.runtime.mounts` for types ``cgroup`` and ``cgroup2``. Source: OCI runtime specification,
config-linux.md "Default Filesystems"; cgroup_namespaces(7).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Errors of a cgroup2 mount after which the next best thing is tried.
FALL_BACK = (errno.EPERM, errno.EBUSY, errno.ENODEV, errno.EINVAL)


def own_directory() -> str:
    """Where the host shows the cgroup v2 this process is in; "" where it is not to be seen.

    Without a cgroup namespace a user namespace may not mount cgroup2: a bind of this directory, and of nothing above,
    is what the container gets instead.
    """
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            path = _unified(file)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            found = locate(path, file) if path else ""
    except OSError:
        return ""
    return found if found and os.path.isdir(found) else ""


def _unified(lines: Iterable[str]) -> str:
    for line in lines:
        if line.startswith("0::"):
            return line[3:].rstrip("\n")
    return ""


def locate(path: str, mountinfo: Iterable[str]) -> str:
    """The directory of cgroup *path* in a cgroup2 mount of *mountinfo* (proc_pid_mountinfo(5)); "" if none has it."""
    for line in mountinfo:
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup2 "):
            continue
        root, point = (field.replace("\\040", " ") for field in left.split(" ")[3:5])
        if root == "/":
            return point if path == "/" else point + path
        if path == root or path.startswith(root + "/"):
            return point + path[len(root) :]
    return ""
