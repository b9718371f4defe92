"""What differs between stacks of layers: the lines of `rl diff`, and what a commit puts into its new layer.

Reads the layers' directories, mounts nothing, takes no lock. Two ways, as in Podman: :func:`written` looks at a
writable overlay layer, which has just what was changed; :func:`compared` walks two whole stacks, for the copy driver
and for images that do not build on each other. Runs inside the user namespace.

Source: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat

from rl.storage.tarwrite import OPAQUE_FILES, is_opaque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Owner = Callable[[int, int], tuple[int, int]]

CHANGED, ADDED, DELETED = "C", "A", "D"

_MARK = ".wh."
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Change = tuple[str, str]  # kind, absolute path


def written(upper: str, lowers: list[str]) -> list[Change]:
    """The changes in *upper*, a writable layer above *lowers* (top first)."""
    changes: list[Change] = []
    told: set[str] = set()  # directories in the list

    def parent_of(path: str) -> None:
        """A directory where something came or went is changed, even if it looks as before."""
        parent = os.path.dirname(path)
        if parent != "/" and parent not in told:
            told.add(parent)
            changes.append((CHANGED, parent))

    def walk(path: str, here: str, below: list[str]) -> None:
        with os.scandir(here) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            full = f"{path}/{name}"
            status = os.lstat(f"{here}/{name}")
            if name in OPAQUE_FILES:
                continue
            hidden = name.removeprefix(_MARK) if name.startswith(_MARK) else name if _is_whiteout(status) else ""
            if hidden:
                gone = f"{path}/{hidden}"
                parent_of(gone)
                changes.append((DELETED, gone))
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            opaque = is_directory and _opaque(f"{here}/{name}")
            found = _find(name, below)
            if is_directory and not opaque and found and _same_directory(status, found):
                walk(full, f"{here}/{name}", _merged(name, below))
                continue
            replaced = opaque and found is not None
            kind = DELETED if replaced else CHANGED if found else ADDED
            if kind != CHANGED:
                parent_of(full)
            if is_directory:
                told.add(full)
            changes.append((kind, full))
            if is_directory:
                walk(full, f"{here}/{name}", [] if opaque else _merged(name, below))

    walk("", upper, lowers)
    return changes


def _same_directory(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mode, one.st_mtime_ns) == (other.st_size, other.st_mode, other.st_mtime_ns)


def compared(old: list[str], new: list[str], owner: Owner | None = None) -> list[Change]:
    """The changes from stack *old* to stack *new* (directories, top first), seen as the file systems they make.

    *owner* maps the (uid, gid) of *new* to what *old* has for the same user.
    """
    return list(_compare("", old, new, owner or _as_it_is))


def _as_it_is(uid: int, gid: int) -> tuple[int, int]:
    return uid, gid


def _compare(path: str, old: list[str], new: list[str], owner: Owner) -> Iterator[Change]:
    before, after = _entries(old), _entries(new)
    for name in sorted(before.keys() | after.keys()):
        full = f"{path}/{name}"
        if name not in after:
            yield DELETED, full
            continue
        status, where = after[name]
        is_directory = stat.S_ISDIR(status.st_mode)
        if name not in before:
            yield ADDED, full
            if is_directory:
                yield from _compare(full, [], _merged(name, new), owner)
            continue
        earlier, there = before[name]
        differs = _differs(earlier, there, status, where, owner)
        if not is_directory:
            if differs:
                yield CHANGED, full
            continue
        was_directory = stat.S_ISDIR(earlier.st_mode)
        below = _compare(full, _merged(name, old) if was_directory else [], _merged(name, new), owner)
        if differs:
            yield CHANGED, full
        else:
            first = next(below, None)
            if first is None:
                continue
            yield CHANGED, full
            yield first
        yield from below


def _differs(before: os.stat_result, there: str, after: os.stat_result, here: str, owner: Owner) -> bool:
    """Whether something of a file changed; not inode nor ctime, which a copy has anew."""
    if before.st_mode != after.st_mode or (before.st_uid, before.st_gid) != owner(after.st_uid, after.st_gid):
        return True
    if stat.S_ISDIR(after.st_mode):
        return False
    if before.st_size != after.st_size or not _same_time(before.st_mtime_ns, after.st_mtime_ns):
        return True
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(there) != os.readlink(here)
    if after.st_mode & 0o111 and stat.S_ISREG(after.st_mode):
        return _capability(there) != _capability(here)
    return before.st_rdev != after.st_rdev


def _same_time(one: int, other: int) -> bool:
    """Equal, as far as archives keep it: some have whole seconds only."""
    return one == other or (one // 10**9 == other // 10**9 and (one % 10**9 == 0 or other % 10**9 == 0))


def _capability(path: str) -> bytes:
    """The capabilities of a file, without the root user that they are for (capabilities(7), versions 2 and 3)."""
    try:
        value = os.getxattr(path, "security.capability")
        return value[:1] + value[4:20]
    except OSError:
        return b""


# --------------------------------------------------------------------------- a stack as one file system


def _entries(stack: list[str]) -> dict[str, tuple[os.stat_result, str]]:
    """What the topmost directory of *stack* shows with the others below it: name → (status, path)."""
    if len(stack) > 1:
        found: dict[str, tuple[os.stat_result, str]] = {}
        hidden: set[str] = set()
        for directory in stack:
            gone = set()
            for name, item in _entries([directory]).items():
                if name not in found and name not in hidden:
                    found[name] = item
            for name in os.listdir(directory):
                mark = name.removeprefix(_MARK) if name.startswith(_MARK) else name
                if name.startswith(_MARK) or (name not in found and _is_whiteout(os.lstat(f"{directory}/{name}"))):
                    gone.add(mark)
            hidden |= gone
        return found
    result = {}
    for directory in stack:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if not _is_whiteout(status) and not entry.name.startswith(_MARK):
                    result[entry.name] = (status, entry.path)
    return result


def _merged(name: str, stack: list[str]) -> list[str]:
    """The directories that together are directory *name* of *stack*: down to the first that hides the rest."""
    found = []
    for directory in stack:
        path = f"{directory}/{name}"
        try:
            status = os.lstat(path)
        except OSError:
            if os.path.lexists(f"{directory}/{_MARK}{name}"):
                break
            continue
        if not stat.S_ISDIR(status.st_mode):
            break  # a whiteout, or a file in the place of the directory
        found.append(path)
        if _opaque(path):
            break
    return found


def _find(name: str, stack: list[str]) -> os.stat_result | None:
    """The status of *name* as *stack* shows it."""
    for directory in stack:
        try:
            status = os.lstat(f"{directory}/{name}")
        except OSError:
            if os.path.lexists(f"{directory}/{_MARK}{name}"):
                return None
            continue
        return None if _is_whiteout(status) else status
    return None


def _opaque(path: str) -> bool:
    fd = os.open(path, _DIRECTORY)
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
