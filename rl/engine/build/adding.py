"""ADD: what it takes beside files of the context: archives that are unpacked, URLs, git repositories.

Called by rl.engine.build.copies: :func:`remote` in the command line's process, which fetches with the caller's rights
and network; the rest in a worker. Source: Dockerfile reference, "ADD".
"""

from __future__ import annotations

import email.utils
import os
import posixpath
import stat
import urllib.parse

from rl.engine import cp_streams
from rl.engine.build import fetching
from rl.engine.build.digests import of_descriptor
from rl.engine.build.gathering import Tree
from rl.errors import RlError, UsageError, VerificationError
from rl.image.reference import is_digest
from rl.image.streams import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from rl.engine.build.copying import Writer
    from rl.engine.build.gathering import Item, Plan
    from rl.image.containerfile import Instruction

    class Remote(Protocol):
        def words(self) -> list[Any]:
            """What counts for the cache beside :meth:`identity`."""

        def identity(self) -> str:
            """A digest of what is there now."""

        def write(self, writer: Writer, destination: str, unpack: bool) -> None: ...


def remote(instruction: Instruction, word: str, checksum: str, directory: str) -> Remote | None:
    """What *word* names on another machine, to be fetched to *directory*; None: it is a file. Raises UsageError."""
    if checksum and not is_digest(checksum):
        raise instruction.flag_error("checksum", f"--checksum={checksum}: not a digest", "write sha256: and 64 digits")
    if fetching.is_git(word):
        keep = instruction.flag("keep-git-dir") in ("true", "1")
        if checksum:
            raise instruction.flag_error("checksum", "--checksum is for files", "name the commit: URL#COMMIT")
        return _Repository(word, keep, directory)
    if word.startswith(("http://", "https://")):
        explicit = any(flag.name == "unpack" for flag in instruction.flags)
        return _File(word, checksum, explicit, directory)
    if checksum:
        raise instruction.flag_error("checksum", "--checksum is for URLs", "files of the context are hashed anyway")
    return None


class _File:
    """A file by http or https; fetched when it is needed, once."""

    def __init__(self, url: str, checksum: str, unpack: bool, directory: str) -> None:
        self._url = url
        self._directory = directory
        self._checksum = checksum
        self._unpack = unpack
        self._fd = -1
        self._mtime = 0

    def words(self) -> list[Any]:
        return [self._url, self._unpack]

    def identity(self) -> str:
        if self._checksum:
            return self._checksum
        return self._fetch()

    def _fetch(self) -> str:
        if self._fd < 0:
            self._fd, headers = fetching.download(self._url, self._directory)
            if "last-modified" in headers:
                self._mtime = _seconds(headers["last-modified"])
        os.lseek(self._fd, 0, os.SEEK_SET)
        found = f"sha256:{of_descriptor(self._fd)}"
        if self._checksum and found != self._checksum:
            raise VerificationError(
                f"ADD {self._url}: it has the digest {found}, not {self._checksum}",
                "it was changed, or the digest is wrong",
            )
        return found

    def write(self, writer: Writer, destination: str, unpack: bool) -> None:
        self._fetch()
        os.lseek(self._fd, 0, os.SEEK_SET)
        if self._unpack and unpack:
            plain = cp_streams.archive(Source.of_fd(self._fd, self._url), self._url)
            if plain is not None:
                _unpack(plain, writer, destination)
                return
            os.lseek(self._fd, 0, os.SEEK_SET)
        name = posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(self._url).path))
        if destination.endswith("/") or writer.is_directory(destination):
            if not name:
                what = f"ADD {self._url}: the URL has no name for the file"
                raise UsageError(what, "name the file at the destination")
            destination = posixpath.join(destination, name)
        writer.stream(destination, self._fd, 0o600, self._mtime)


def _seconds(text: str) -> int:
    """A time as HTTP has it; 0 for one that is none."""
    try:
        return max(0, int(email.utils.parsedate_to_datetime(text).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0


class _Repository:
    """Files of a git repository."""

    def __init__(self, url: str, keep: bool, directory: str) -> None:
        self._url = url
        self._directory = directory
        self._keep = keep
        self._found: fetching.Checkout | None = None

    def words(self) -> list[Any]:
        return [self._url.partition("#")[0], self._keep]

    def _checkout(self) -> fetching.Checkout:
        if self._found is None:
            self._found = fetching.checkout(self._url, self._directory)
        return self._found

    def identity(self) -> str:
        found = self._checkout()
        return f"{found.commit}:{found.subdirectory}"

    def write(self, writer: Writer, destination: str, unpack: bool) -> None:
        found = self._checkout()
        fd = os.open(found.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            plan = Tree(fd, self._url).gather(["."], exclude=[] if self._keep else [".git"])
            writer.copy(plan, destination.rstrip("/") + "/")
        finally:
            os.close(fd)


# --------------------------------------------------------------------------- local archives


def is_archive(plan: Plan, item: Item) -> bool:
    """Whether a source is a tar archive, compressed or not: told by its content."""
    if not stat.S_ISREG(item.entries[0].status.st_mode):
        return False
    fd = plan.tree.open(item, item.entries[0])
    try:
        return cp_streams.archive(Source.of_fd(fd, item.path), item.path) is not None
    finally:
        os.close(fd)


def unpack_item(plan: Plan, item: Item, writer: Writer, destination: str) -> None:
    """Unpack the archive *item*. Raises VerificationError for one that is damaged or hostile."""
    fd = plan.tree.open(item, item.entries[0])
    try:
        plain = cp_streams.archive(Source.of_fd(fd, item.path), item.path)
        if plain is None:
            raise RlError(f"{item.path} changed while it was read", "build again when nothing writes there")
        _unpack(plain, writer, destination)
    finally:
        os.close(fd)


def _unpack(plain: Source, writer: Writer, destination: str) -> None:
    target = writer.directory(destination.rstrip("/") or "/")
    try:
        cp_streams.unpack(plain, target, writer.of_archive, overwrite=True)
    finally:
        os.close(target)


