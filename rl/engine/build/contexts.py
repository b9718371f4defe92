"""The build context and the Containerfile: from a directory, standard input, an archive, a URL or a git repository.

Called by rl.engine.build.build. Source: podman-build(1), "DESCRIPTION"; Docker's "Build context".
"""

from __future__ import annotations

import os
import sys

from rl.engine import cp_streams
from rl.engine.build import fetching
from rl.engine.build.digests import Memory
from rl.engine.build.gathering import Tree
from rl.errors import NotFoundError, RlError, UnsupportedError, UsageError
from rl.image.containerfile.ignore import NAMES, Matcher, patterns
from rl.image.streams import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.build.cache import Work

#: What a Containerfile is called where no flag says so, in the order of the search.
FILES = ("Containerfile", "Dockerfile")
_LARGEST = 64 << 20  # bytes of a Containerfile that comes without a name


class Context:
    """``directory``: its files; ``data``, ``name``: the Containerfile, where the source itself is one."""

    __slots__ = ("data", "directory", "name", "temporary")

    def __init__(self, directory: str, *, temporary: bool = False, data: bytes | None = None, name: str = "") -> None:
        self.directory = directory
        self.temporary = temporary
        self.data = data
        self.name = name


def open_context(where: str, work: Work, *, stdin_taken: bool = False) -> Context:
    """The context that *where* names; what has to be unpacked or fetched goes to *work*.

    *stdin_taken*: standard input is the Containerfile already (``-f -``). Raises NotFoundError, UsageError, RlError.
    """
    if where == "-":
        if stdin_taken:
            raise UsageError(
                "standard input cannot be both the context and the Containerfile", "name a directory as the context"
            )
        if sys.stdin.isatty():
            raise UsageError("a terminal is no context", "redirect standard input: rl build - < Containerfile")
        return _stream(0, "standard input", work)
    if fetching.is_git(where):
        return Context(fetching.checkout(where, work.path).path, temporary=True)
    if where.startswith(("http://", "https://")):
        fd, _ = fetching.download(where, work.path)
        try:
            return _stream(fd, where, work)
        finally:
            os.close(fd)
    if os.path.isdir(where):
        return Context(os.path.abspath(where))
    if not os.path.exists(where):
        raise NotFoundError(f"context {where}: no such directory", "the last word of `rl build` is a directory")
    fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    try:
        plain = cp_streams.archive(Source.of_fd(fd, where), where)
        if plain is None:
            raise UsageError(f"context {where}: neither a directory nor a tar archive", "-f FILE names a Containerfile")
        return _unpacked(plain, work)
    finally:
        os.close(fd)


def _stream(fd: int, what: str, work: Work) -> Context:
    """A tar archive is the context; anything else is the Containerfile, and there is no context."""
    source = Source.of_fd(fd, what)
    source.peek(512)
    head = source.peek(1 << 16)
    plain = cp_streams.archive(source, what)
    if plain is not None:
        return _unpacked(plain, work)
    data = head + _rest(source, head, what)
    if not data.strip():
        raise UsageError(f"{what} is empty", "give it a Containerfile or a tar archive")
    directory = f"{work.path}/empty"
    os.mkdir(directory)
    return Context(directory, temporary=True, data=data, name="-" if fd == 0 else what)


def _rest(source: Source, head: bytes, what: str) -> bytes:
    """What follows *head*, which was looked at but may not have been taken."""
    pieces, count = [], 0
    while piece := source.read(1 << 16):
        pieces.append(piece)
        count += len(piece)
        if count > _LARGEST:
            raise UsageError(f"{what}: more than {_LARGEST >> 20} MB, and neither a Containerfile nor an archive")
    return b"".join(pieces)[len(head):]


def _unpacked(plain: Source, work: Work) -> Context:
    directory = f"{work.path}/context"
    os.mkdir(directory, 0o700)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.getuid(), os.getgid()
    try:
        cp_streams.unpack(plain, fd, lambda uid, gid: own, overwrite=True)
    finally:
        os.close(fd)
    return Context(directory, temporary=True)


def containerfile(context: Context, files: list[str]) -> tuple[bytes, str]:
    """(text, name) of the Containerfile: *files* of -f, joined; else the context's. Raises NotFoundError, RlError."""
    if not files and context.data is not None:
        return context.data, context.name
    if not files:
        for name in FILES:
            path = f"{context.directory}/{name}"
            if os.path.isfile(path):
                return _read(path), path if context.temporary else os.path.relpath(path)
        raise NotFoundError(
            f"no Containerfile or Dockerfile in {context.directory}", "name it: rl build -f FILE CONTEXT"
        )
    texts = []
    for file in files:
        if file == "-":
            texts.append(sys.stdin.buffer.read())
            continue
        if file.endswith(".in"):
            raise UnsupportedError(
                f"-f {file}: rl runs no C preprocessor", f"cpp -E -P {file} | rl build -f - CONTEXT"
            )
        texts.append(_read(locate(context, file)))
    return b"\n".join(texts), files[0]


def locate(context: Context, file: str) -> str:
    """Where the file of -f is: as it says, or else in the context."""
    inside = os.path.join(context.directory, file)
    for path in (file, inside):
        if os.path.isfile(path):
            return path
    if os.path.isdir(file):
        return locate(context, os.path.join(file, FILES[0]))
    raise NotFoundError(f"-f {file}: no such file, neither here nor in the context {context.directory}")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise RlError(f"read {path}: {error.strerror}") from None


def tree(paths: Paths, context: Context, files: list[str], ignorefile: str) -> Tree:
    """The files of the context, without those that the ignore file leaves out."""
    matcher, name = None, ""
    path = _ignore_file(context, files, ignorefile)
    if path:
        try:
            matcher = Matcher(patterns(_read(path)))
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}", error.hint) from None
        name = os.path.basename(path)
    try:
        fd = os.open(context.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RlError(f"open the context {context.directory}: {error.strerror}") from None
    memory = None if context.temporary else Memory(paths, context.directory)
    return Tree(fd, "the build context", ignored=matcher, ignore_file=name, memory=memory)


def _ignore_file(context: Context, files: list[str], ignorefile: str) -> str:
    if ignorefile:
        if not os.path.isfile(ignorefile):
            raise NotFoundError(f"--ignorefile {ignorefile}: no such file")
        return ignorefile
    candidates = []
    for file in files[:1]:
        if file != "-":
            beside = locate(context, file)
            candidates += [f"{beside}{name}" for name in NAMES]
    candidates += [f"{context.directory}/{name}" for name in NAMES]
    return next((path for path in candidates if os.path.isfile(path)), "")
