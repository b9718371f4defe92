"""rl volume import: the files of a tar archive into a volume.

Into an unused, empty volume the files come by one rename(2), all or none of them; what is not empty is merged in place,
an entry of the archive taking precedence, as with Podman.
"""

from __future__ import annotations

import os

from rl.engine.volume import options as local
from rl.engine.volume import records
from rl.errors import NoSuchVolumeError, RlError, UnsupportedError, VerificationError
from rl.image.content import records_lock
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import VolumeRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: Where an archive is unpacked first; one that a killed process left goes with the next import, or with the volume.
STAGING = "importing"


def import_(engine: Engine, name: str, fd: int, what: str) -> None:
    """Unpack the archive that descriptor *fd* gives, compressed or not; *what* names it in errors.

    Raises NoSuchVolumeError, VerificationError for what is no archive or leads outside, RlError.
    """
    try:
        found = records.find(engine.paths, name)
    except NoSuchVolumeError:
        raise NoSuchVolumeError(f"no such volume {name}", f"rl volume create {name}") from None
    skipped = userns.call(engine.paths.run, _unpack, engine.paths, found, records.read(engine.paths, found), fd, what)
    if skipped:
        engine.warn(f"{skipped} device nodes of {what} were left out: nobody can make them in a user namespace")
    from rl.engine.events import emit

    emit(engine.paths, "volume", "import", found, found)


def _unpack(paths: Paths, name: str, record: VolumeRecord, fd: int, what: str) -> int:
    """Inside the user namespace; how many device nodes were left out."""
    import fcntl

    from rl.storage import trash

    data = records.data(paths, name)
    options = local.parse(record.get("Options") or {})
    plain = not options.type
    if not plain:
        from rl.engine.volume import mounting

        fresh, _ = mounting.mount(paths, name, record)
        if fresh and options.type == "tmpfs":
            raise UnsupportedError(
                f"import into volume {name}: it is a tmpfs that no running container has mounted, so the files "
                "would be gone at once", "start a container that uses it first",
            )
    lock = os.open(records.directory(paths, name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one import at a time, and none while a container fills it
        staging = f"{records.directory(paths, name)}/{STAGING}"
        trash.remove_tree(staging)
        if not plain or options.size or options.inodes or os.listdir(data):
            return _apply(fd, data, what)
        status = os.stat(data)
        os.mkdir(staging, 0o700)
        try:
            os.chown(staging, status.st_uid, status.st_gid)
            os.chmod(staging, status.st_mode & 0o7777)
            skipped = _apply(fd, staging, what)
            with records_lock(paths, exclusive=True):
                if not records.users_of(paths, name):
                    os.rename(staging, data)
                    return skipped
            _move(staging, data)
        finally:
            trash.remove_tree(staging)
        return skipped
    finally:
        os.close(lock)


def _move(staging: str, data: str) -> None:
    """Entry by entry: a container has the directory mounted already, so it cannot be replaced."""
    from rl.storage import trash

    for entry in os.listdir(staging):
        if os.path.lexists(f"{data}/{entry}"):
            trash.remove_tree(f"{data}/{entry}")
        os.rename(f"{staging}/{entry}", f"{data}/{entry}")


def _apply(fd: int, target: str, what: str) -> int:
    from rl.image.streams import Source, decompressed, kind_of
    from rl.storage.apply import Applier
    from rl.storage.tarstream import TarStream

    source = Source.of_fd(fd, what)
    compressed = kind_of(source.peek(6))
    if not source.peek(1):
        raise VerificationError(f"{what} is empty", "a tar archive is needed, as `rl volume export` writes it")
    pipe, child = -1, 0
    if not compressed:
        try:
            os.lseek(fd, -len(source.peek(6)), os.SEEK_CUR)
            pipe = os.dup(fd)
        except OSError:
            pass  # a pipe
    if pipe < 0:
        read, _ = decompressed(source, what)
        pipe, child = _pump(read)
    umask = os.umask(0)
    applier = Applier(target, userns.current_mode() == "single", whiteouts=False)
    try:
        stream = TarStream(pipe)
        while (entry := stream.next()) is not None:
            applier.apply(stream, entry)
        applier.finish()
        while child and os.read(pipe, 1 << 18):
            pass  # whatever follows the end, so that the rest of compressed data is verified too
        if child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise VerificationError(f"{what}: its {compressed or 'data'} is broken", "get it again from its source")
    except VerificationError as error:
        message = error.message.replace("the layer's archive", what).replace("the layer", what)
        hint = "" if compressed else "is it a tar archive? plain, or compressed by gzip, zstd, xz or bzip2"
        raise VerificationError(message, hint) from None
    except RlError as error:
        raise RlError(error.message.replace("of the layer", f"of {what}"), error.hint) from None
    finally:
        os.umask(umask)
        applier.close()
        os.close(pipe)
    return applier.skipped


def _pump(read: object) -> tuple[int, int]:
    """(a descriptor that gives what *read* returns, the child process that writes it)."""
    from rl.image.tarstream import write_all

    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            while piece := read(1 << 18):  # type: ignore[operator]
                write_all(write_end, piece)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    return read_end, child
