"""rl export: a container's root file system as a tar archive, without what is mounted in it."""

from __future__ import annotations

import os

from rl.engine import containers
from rl.engine.events import emit_container
from rl.engine.rootaccess import inside, open_root, owner_of
from rl.errors import RlError, UsageError, disk_hint
from rl.runtime import userns
from rl.storage.tarwrite import TarWriter, to_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def export(engine: Engine, name: str, output: str | int) -> None:
    """Write the archive to *output*, a path or a descriptor. A file that could not be completed is removed.

    Raises NoSuchContainerError, UsageError, RlError.
    """
    container_id = containers.find(engine.paths, name)
    if isinstance(output, str) and ":" in output:
        raise UsageError(
            f'invalid filename (should not contain \':\') "{output}"',
            "choose another name, or redirect: rl export C > FILE",
        )
    config = containers.read_config(engine.paths, container_id)
    fd = output if isinstance(output, int) else _create(output)
    try:
        inside(engine.paths, _write, engine.paths, container_id, fd)
    except BaseException:
        if isinstance(output, str) and os.path.isfile(output):
            os.unlink(output)
        raise
    finally:
        if isinstance(output, str):
            os.close(fd)
    emit_container(engine.paths, config, "export")


def _create(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RlError(f"open {path}: {error.strerror}", "check the directory and its permissions") from None


def _write(paths: Paths, container_id: str, fd: int) -> None:
    with open_root(paths, container_id, plain=True) as root:
        writer = TarWriter(
            to_fd(fd), fd=fd, owner=owner_of(root.config), single=userns.current_mode() == "single",
            skip_unreadable=root.running,
        )
        try:
            writer.tree(root.fd)
            writer.finish()
        except OSError as error:
            what = f"export container {root.config['name']}: {error.strerror}"
            raise RlError(what + (f" ({error.filename})" if error.filename else ""), disk_hint(error)) from None
