"""Who a container runs as: ``name``, ``uid``, ``name:group``, ``uid:gid`` against the container's own files.

Called by the engine before the OCI config is written, and by :mod:`rl.engine.exec`. The files belong to
the image, so they are opened inside its root only and read up to a limit.
Source: passwd(5), group(5), OCI image specification, config "User".
"""

from __future__ import annotations

import os

from rl.errors import RlError
from rl.runtime import rootpath

_LIMIT = 8 << 20  # bytes; an image cannot make us read more
_ID_MAX = 2**32 - 2  # 2**32 - 1 means "unchanged" to setresuid(2)


def lookup(root: str | int, user: str) -> tuple[int, int, list[int], str]:
    """(uid, gid, additional gids, home directory) of *user* in the root directory *root* (path or descriptor).

    An empty *user* is root. Additional groups come from /etc/group by name, unless a group was given.
    Raises RlError for a name that is not there, a number out of range, an unreadable file.
    """
    fd = root if isinstance(root, int) else os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _lookup(fd, user)
    finally:
        if not isinstance(root, int):
            os.close(fd)


def _lookup(root: int, user: str) -> tuple[int, int, list[int], str]:
    name, colon, group = user.partition(":")
    if colon and not group:
        raise RlError(f"user {user!r}: no group after the colon", "write --user USER or --user USER:GROUP")
    name = name or "0"
    number = _number(name, "user")
    entry = _find_user(_lines(root, "/etc/passwd"), name, number)
    if entry is None and number is None:
        raise RlError(
            f"user {name!r} is not in the container's /etc/passwd",
            "give a numeric user id, such as --user 1000, or a name that the image knows",
        )
    uid = int(entry[2]) if entry else number or 0
    gid = int(entry[3]) if entry and entry[3].isdigit() else 0
    home = (entry[5] if entry and len(entry) > 5 else "") or "/"
    extra: list[int] = []
    if colon:
        gid = _group(root, group)
    elif entry:
        extra = [g for g in _groups_of(root, entry[0]) if g != gid]
    if uid:
        # Without it, a file that its group may not read opens to who drops the group by a set-group-id program
        # (CVE-2022-2989).
        extra = [gid, *extra]
    return uid, gid, extra, home


def group_ids(root: str | int, groups: list[str]) -> list[int]:
    """The ids of *groups* (names or numbers) in the container, for --group-add."""
    fd = root if isinstance(root, int) else os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [_group(fd, group) for group in groups]
    finally:
        if not isinstance(root, int):
            os.close(fd)


def home_of(root: int, uid: int) -> str:
    """The home directory of *uid* in the container's passwd; ``/`` where it has none."""
    entry = _find_user(_lines(root, "/etc/passwd"), str(uid), uid)
    return (entry[5] if entry and len(entry) > 5 else "") or "/"


def _number(text: str, what: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text) if len(text) < 20 else _ID_MAX + 1
    if value > _ID_MAX:
        raise RlError(f"{what} id {text} is out of range", f"ids go from 0 to {_ID_MAX}")
    return value


def _lines(root: int, path: str) -> list[list[str]]:
    try:
        data = rootpath.read_limited(root, path, _LIMIT)
    except OSError as error:
        raise RlError(f"read the container's {path}: {error.strerror}") from None
    return [line.split(":") for line in data.decode(errors="surrogateescape").split("\n")]


def _find_user(lines: list[list[str]], name: str, number: int | None) -> list[str] | None:
    """A name is looked for first, as an all-digit name is possible; then the number."""
    for fields in lines:
        if fields[0] == name and len(fields) > 3 and fields[2].isdigit():
            return fields
    if number is not None:
        for fields in lines:
            if len(fields) > 3 and fields[2].isdigit() and int(fields[2]) == number:
                return fields
    return None


def _group(root: int, group: str) -> int:
    for fields in _lines(root, "/etc/group"):
        if fields[0] == group and len(fields) > 2 and fields[2].isdigit():
            return int(fields[2])
    number = _number(group, "group")
    if number is None:
        raise RlError(
            f"group {group!r} is not in the container's /etc/group", "give a numeric group id, such as --user 1000:1000"
        )
    return number


def _groups_of(root: int, name: str) -> list[int]:
    lines = _lines(root, "/etc/group")
    return [int(f[2]) for f in lines if len(f) > 3 and f[2].isdigit() and name in f[3].split(",")]
