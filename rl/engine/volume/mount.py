"""rl volume mount and unmount: a volume's files in the mount namespace of the caller."""

from __future__ import annotations

import os

from rl.engine.volume import records
from rl.errors import RlError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def mount(engine: Engine, name: str) -> str:
    """Mount the volume where it has a file system of its own, and return the directory with its files.

    Only root may mount: an ordinary user is that in `rl unshare`. Raises UnsupportedError, NoSuchVolumeError.
    """
    if os.geteuid() != 0:
        raise UnsupportedError(
            'cannot run command "rl volume mount" in rootless mode, must execute `rl unshare` first',
            f"rl unshare sh -c 'cd $(rl volume mount {name}) && ls -l'",
        )
    from rl.engine.events import emit
    from rl.engine.volume import mounting

    found = records.find(engine.paths, name)
    mounting.mount(engine.paths, found, records.read(engine.paths, found))
    emit(engine.paths, "volume", "mount", found, found)
    return records.data(engine.paths, found)


def unmount(engine: Engine, names: list[str]) -> list[tuple[str, RlError | None]]:
    """Take the volumes down again; (name, error or None) for each. What is not mounted here is fine."""
    from rl.engine.events import emit
    from rl.engine.volume import mounting

    results: list[tuple[str, RlError | None]] = []
    for text in names:
        try:
            name = records.find(engine.paths, text)
            if mounting.unmount(engine.paths, name):
                emit(engine.paths, "volume", "unmount", name, name)
            results.append((name, None))
        except RlError as error:
            results.append((text, error))
    return results
