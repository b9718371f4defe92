"""rl volume export: the files of a volume as a tar archive."""

from __future__ import annotations

import os

from rl.engine.volume import records
from rl.errors import NoSuchVolumeError, RlError, disk_hint
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import VolumeRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def export(engine: Engine, name: str, fd: int) -> None:
    """Write the archive to descriptor *fd*: names relative to the volume, ids of the containers' user namespace.

    Raises NoSuchVolumeError, RlError.
    """
    try:
        found = records.find(engine.paths, name)
    except NoSuchVolumeError:
        raise NoSuchVolumeError(f"no such volume {name}", "`rl volume ls` lists all volumes") from None
    userns.call(engine.paths.run, _write, engine.paths, found, records.read(engine.paths, found), fd)
    from rl.engine.events import emit

    emit(engine.paths, "volume", "export", found, found)


def _write(paths: Paths, name: str, record: VolumeRecord, fd: int) -> None:
    """Inside the user namespace, where a volume that is a file system can be mounted."""
    from rl.storage.tarsparse import SparseWriter
    from rl.storage.tarwrite import to_fd

    if record.get("Options"):
        from rl.engine.volume import mounting

        mounting.mount(paths, name, record)
    root = os.open(records.data(paths, name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        writer = SparseWriter(to_fd(fd), fd=fd, single=userns.current_mode() == "single")
        writer.tree(root)
        writer.finish()
    except BrokenPipeError:
        raise RlError(f"export volume {name}: who reads the archive has gone") from None
    except OSError as error:
        raise RlError(f"export volume {name}: {error.strerror}", disk_hint(error)) from None
    finally:
        os.close(root)
