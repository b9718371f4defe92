"""What COPY and ADD take: the files below a root directory that sources name, and a digest of all of it.

Sources are resolved by the kernel inside the root (openat2(2), RESOLVE_IN_ROOT): no symbolic link leads out of a
context or a stage. Nothing is read before a digest or a copy needs it; what .dockerignore leaves out is not opened.

Called by rl.engine.build.steps. Source: Dockerfile reference, "COPY" and "ADD"; Go's path/filepath.Match.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import stat
from hashlib import sha256

from rl.engine.build.digests import of_descriptor
from rl.errors import NotFoundError, RlError, UsageError
from rl.image.containerfile.ignore import Matcher, expression
from rl.kernel import fs
from rl.runtime import rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rl.engine.build.digests import Memory

_BELOW = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS | fs.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_WILD = re.compile(r"[*?\[\\]")


class Entry:
    """One file: ``path`` below the item ("" is the item itself), ``link``: what a symbolic link says."""

    __slots__ = ("link", "path", "status")

    def __init__(self, path: str, status: os.stat_result, link: str = "") -> None:
        self.path = path
        self.status = status
        self.link = link


class Item:
    """What one source stands for: ``path`` in the root; ``entries``: itself first, parents before children."""

    __slots__ = ("entries", "path", "pivot")

    def __init__(self, path: str, pivot: int) -> None:
        self.path = path
        self.pivot = pivot  # with --parents: where the part begins that is kept
        self.entries: list[Entry] = []

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.entries[0].status.st_mode)

    @property
    def name(self) -> str:
        """The name that it gets in a directory."""
        return posixpath.basename(self.path)


class Tree:
    """A directory to copy from: a context, a stage, an image.

    ``fd``: its root; ``label``: what it is called in errors; ``ignored``: what .dockerignore leaves out; ``memory``:
    known digests. ``original``: owners are kept.
    """

    __slots__ = ("fd", "ignore_file", "ignored", "label", "memory", "original")

    def __init__(
        self, fd: int, label: str, *, ignored: Matcher | None = None, ignore_file: str = "",
        memory: Memory | None = None, original: bool = False,
    ) -> None:
        self.fd = fd
        self.label = label
        self.ignored = ignored or Matcher([])
        self.ignore_file = ignore_file
        self.memory = memory
        self.original = original

    # finding

    def gather(self, sources: list[str], *, exclude: list[str] | None = None, parents: bool = False) -> Plan:
        """The plan for *sources*. Raises NotFoundError for one that is not there, UsageError for a bad pattern."""
        excluded = Matcher([posixpath.normpath(pattern.lstrip("/")) for pattern in exclude or []])
        items = []
        for source in sources:
            for path, pivot in self._paths(source):
                item = Item(path, pivot if parents else 0)
                self._fill(item, excluded)
                items.append(item)
        return Plan(self, items, parents)

    def _paths(self, source: str) -> Iterator[tuple[str, int]]:
        """(path in the root, length of what a /./ in the source cuts off) of all that *source* matches."""
        head, pivot, _ = source.partition("/./")
        skipped = _clean(head) + "/" if pivot and head else ""
        path = _clean(source)
        if not _WILD.search(path):
            self._check(source, path)
            yield path, len(skipped)
            return
        pattern = path.split("/")
        try:
            found = [match for match in self._matches("", pattern) if not self._left_out(match)]
        except UsageError as error:
            raise UsageError(f"source {source}: {error.message}", error.hint) from None
        if not found:
            raise NotFoundError(f"source {source}: nothing in {self.label} matches", self._hint(source))
        for match in found:
            yield match, len(skipped)

    def _matches(self, directory: str, pattern: list[str]) -> Iterator[str]:
        head, rest = pattern[0], pattern[1:]
        if head == "**":
            if rest:
                yield from self._matches(directory, rest)
            for name in self._names(directory):
                below = posixpath.join(directory, name)
                if self._is_directory(below, os.O_NOFOLLOW):  # links could lead in circles
                    yield from self._matches(below, pattern)
                elif not rest:
                    yield below
            return
        if _WILD.search(head):
            rule = re.compile(expression(head) + r"\Z", re.DOTALL)
            names = [name for name in self._names(directory) if rule.match(name)]
        else:
            names = [head]
        for name in names:
            below = posixpath.join(directory, name)
            if not rest:
                if self._exists(below):
                    yield below
            elif self._is_directory(below):
                yield from self._matches(below, rest)

    def _names(self, directory: str) -> list[str]:
        try:
            fd = rootpath.resolve(self.fd, directory or ".", _DIRECTORY)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _status(self, path: str, flags: int = 0) -> os.stat_result | None:
        """What *path* leads to, links followed inside the root."""
        try:
            fd = rootpath.resolve(self.fd, path or ".", os.O_PATH | flags)
        except OSError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _is_directory(self, path: str, flags: int = 0) -> bool:
        status = self._status(path, flags)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def _exists(self, path: str) -> bool:
        return self._status(path) is not None

    def _left_out(self, path: str) -> bool:
        """Whether the path itself is ignored, and nothing below it can be let in again."""
        if not path or not self.ignored.excluded(path):
            return False
        return not (self.ignored.has_exceptions and self._is_directory(path))

    def _check(self, source: str, path: str) -> None:
        if self._left_out(path):
            raise NotFoundError(
                f"source {source}: {self.ignore_file or 'the ignore file'} leaves it out of {self.label}",
                f"add !{path} at the end of that file, or take the pattern out",
            )
        if not self._exists(path):
            link = self._link(path)
            hint = f"it is a symbolic link to {link}, which is not in {self.label}" if link else self._hint(source)
            raise NotFoundError(f"source {source}: not found in {self.label}", hint)

    def _link(self, path: str) -> str:
        """What the first symbolic link on the way says; "" where there is none."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            above = rootpath.resolve_or_none(self.fd, "/".join(parts[: count - 1]) or ".")
            if above is None:
                return ""
            try:
                text = rootpath.link_text(above, parts[count - 1])
            finally:
                os.close(above)
            if text:
                return text
        return ""

    def _hint(self, source: str) -> str:
        above, name = posixpath.split(_clean(source))
        names = self._names(above)
        near = difflib.get_close_matches(name, names, 1, 0.5)
        if near:
            return f"did you mean {posixpath.join(above, near[0])}?"
        if above and not self._is_directory(above):
            return f"{above} is not there either: sources are relative to the root of {self.label}"
        return f"sources are relative to the root of {self.label}, never outside of it"

    # walking

    def _fill(self, item: Item, excluded: Matcher) -> None:
        fd = rootpath.resolve(self.fd, item.path or ".", os.O_PATH)
        try:
            status = os.fstat(fd)
            item.entries.append(Entry("", status))
            if stat.S_ISDIR(status.st_mode):
                self._walk(item, fd, excluded)
        finally:
            os.close(fd)

    def _walk(self, item: Item, root: int, excluded: Matcher) -> None:
        waiting = [""]
        while waiting:
            path = waiting.pop()
            directory = fs.openat2(root, path or ".", _DIRECTORY, 0, _BELOW)
            below = []
            try:
                for name in sorted(os.listdir(directory)):
                    here = f"{path}/{name}" if path else name
                    try:
                        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    is_directory = stat.S_ISDIR(status.st_mode)
                    whole = posixpath.join(item.path, here)
                    if excluded.excluded(here) and not (is_directory and excluded.has_exceptions):
                        continue
                    if self.ignored.excluded(whole):
                        if is_directory and self.ignored.has_exceptions:
                            below.append(here)
                            item.entries.append(Entry(here, status, "?"))  # only if something below it is let in
                        continue
                    link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else ""
                    item.entries.append(Entry(here, status, link))
                    if is_directory:
                        below.append(here)
            except OSError as error:
                raise RlError(f"read {whole or self.label} of {self.label}: {error.strerror}", _DENIED) from None
            finally:
                os.close(directory)
            waiting += reversed(below)
        if self.ignored.has_exceptions:
            item.entries = _without_empty(item.entries)

    # reading

    def open(self, item: Item, entry: Entry) -> int:
        """A descriptor to read a regular file, which must be as it was when it was found."""
        path = posixpath.join(item.path, entry.path) if entry.path else item.path
        try:
            if entry.path:
                above = rootpath.resolve(self.fd, item.path or ".", os.O_PATH | os.O_DIRECTORY)
                try:
                    fd = fs.openat2(above, entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, 0, _BELOW)
                finally:
                    os.close(above)
            else:
                fd = rootpath.resolve(self.fd, item.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise RlError(f"read {path} of {self.label}: {error.strerror}", _DENIED) from None
        status = os.fstat(fd)
        same = (status.st_ino, status.st_size, status.st_mtime_ns) == (
            entry.status.st_ino, entry.status.st_size, entry.status.st_mtime_ns,
        )  # fmt: skip
        if not same:
            os.close(fd)
            what = f"{path} of {self.label} changed while it was copied"
            raise RlError(what, "build again when nothing writes there")
        return fd


_DENIED = "what cannot be read can be left out: list it in .dockerignore"


class Plan:
    """What is to be copied: ``items`` of ``tree``, with their paths kept (``parents``) or not."""

    __slots__ = ("items", "parents", "tree")

    def __init__(self, tree: Tree, items: list[Item], parents: bool) -> None:
        self.tree = tree
        self.items = items
        self.parents = parents

    def digest(self) -> str:
        """A digest of names, kinds, modes, contents, and owners where they are kept; never of times."""
        total = sha256()
        for item in self.items:
            name = item.path[item.pivot:] if self.parents else "" if item.is_directory else item.name
            total.update(f"item {name!r} {item.is_directory}\n".encode(errors="surrogateescape"))
            for entry in item.entries:
                total.update(self._line(item, entry).encode(errors="surrogateescape"))
        return total.hexdigest()

    def _line(self, item: Item, entry: Entry) -> str:
        status = entry.status
        mode = status.st_mode
        owner = f" {status.st_uid}:{status.st_gid}" if self.tree.original else ""
        if stat.S_ISREG(mode):
            content = self._content(item, entry)
        else:
            content = entry.link if stat.S_ISLNK(mode) else ""
            mode = stat.S_IFMT(mode) | (0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode))
        return f"{entry.path!r} {mode:o}{owner} {content!r}\n"

    def _content(self, item: Item, entry: Entry) -> str:
        known = self.tree.memory.find(entry.status) if self.tree.memory else ""
        if known:
            return known
        fd = self.tree.open(item, entry)
        try:
            digest = of_descriptor(fd)
        finally:
            os.close(fd)
        if self.tree.memory:
            self.tree.memory.remember(entry.status, digest)
        return digest


def _clean(source: str) -> str:
    """*source* relative to the root: ``..`` does not lead above it."""
    return posixpath.normpath("/" + source.lstrip("/")).lstrip("/")


def _without_empty(entries: list[Entry]) -> list[Entry]:
    """Without ignored directories that hold nothing which was let in again."""
    needed: set[str] = set()
    kept = []
    for entry in reversed(entries):
        if entry.link == "?" and stat.S_ISDIR(entry.status.st_mode):
            if entry.path not in needed:
                continue
            entry.link = ""
        if entry.path:
            needed.add(posixpath.dirname(entry.path))
        kept.append(entry)
    kept.reverse()
    return kept
