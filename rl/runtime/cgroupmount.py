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
            candidates = locate(path, file) if path else []
    except OSError:
        return ""
    # The last that is there: an earlier one may be covered.
    return next((found for found in reversed(candidates) if os.path.isdir(found)), "")


def _unified(lines: Iterable[str]) -> str:
    for line in lines:
        if line.startswith("0::"):
            return line[3:].rstrip("\n")
    return ""


def locate(path: str, mountinfo: Iterable[str]) -> list[str]:
    """The directories of cgroup *path* in the cgroup2 mounts of *mountinfo* (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo:
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup2 "):
            continue
        root, point = (field.replace("\\040", " ") for field in left.split(" ")[3:5])
        if root == "/":
            found.append(point if path == "/" else point + path)
        elif path == root or path.startswith(root + "/"):
            found.append(point + path[len(root) :])
    return found
