"""Why a path is closed: which part of it, whose that is, outside and inside, and what opens it.

Imported only where something was refused. Works outside of user namespaces, in the monitor's and in a container's.
Source: path_resolution(7), user_namespaces(7).
"""

from __future__ import annotations

import os
import stat

from rl.kernel import proc, process

_OVERFLOW = 65534  # what an id without a counterpart looks like (/proc/sys/kernel/overflowuid)


def closed_part(path: str) -> str:
    """The first directory of absolute *path* that this process may not search, "" if all may be."""
    at = "/"
    for name in path.strip("/").split("/"):
        try:
            os.stat(f"{at.rstrip('/')}/{name}")
        except PermissionError:
            return at
        except OSError:
            return ""
        at = f"{at.rstrip('/')}/{name}"
    return ""


def is_mapped(number: int, kind: str = "uid") -> bool:
    """Whether id *number* of the present user namespace stands for one outside."""
    return any(first <= number < first + count for first, _, count in process.id_map(kind))


def is_unknown(number: int) -> bool:
    """Whether *number* may be what the kernel shows for an id that the namespace does not include."""
    return number == _OVERFLOW and not is_mapped(number)


def outside(number: int, kind: str = "uid") -> int:
    """The id outside of this user namespace, -1 where there is none."""
    return proc.outside(process.id_map(kind), number)


def owner_of(path: str) -> str:
    """``PATH belongs to NAME (uid 5 here, 100004 on the host), mode 0700``, as far as that can be known."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        return f"{path}: {error.strerror}"
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    number, host = status.st_uid, outside(status.st_uid)
    initial = process.id_map("uid") == [(0, 0, 0xFFFFFFFF)]
    if initial:
        return f"{path} belongs to {name_of(number)}, {mode}"
    if number == _OVERFLOW or host < 0:
        return f"{path} belongs to a user of the host outside the container's id map, {mode}"
    return f"{path} belongs to {name_of(host)} on the host, which is uid {number} in the user namespace, {mode}"


def name_of(number: int) -> str:
    """``NAME (uid N)`` of a user of the host."""
    try:
        import pwd

        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except (KeyError, ImportError):
        return f"uid {number}"


def explain(path: str) -> tuple[str, str]:
    """(why *path* cannot be reached, what to do), ("", "") where no directory on the way is the reason."""
    part = closed_part(os.path.abspath(path))
    if not part:
        return "", ""
    status = os.stat(part)
    if outside(status.st_uid) == outside(os.geteuid()) or status.st_uid == os.geteuid():
        hint = f"chmod u+x {part}"
    else:
        hint = f"ask its owner for `chmod o+x {part}`, or use a directory of your own"
    return f"{owner_of(part)}: that closes it to {name_of(max(outside(os.geteuid()), 0))}", hint
