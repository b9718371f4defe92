"""rl system reset: everything of rl's goes, running or not: as if it had never been used.

Containers are stopped and removed first, as `rl rm` does; then, while nobody can make one (the records lock), all
directories of the state go into the trash, so that a reset that is killed is finished by the next command.
"""

from __future__ import annotations

import os

from rl.engine import containers
from rl.errors import RlError, StateError
from rl.image.content import records_lock
from rl.kernel import proc
from rl.runtime import userns
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: What rl makes in its data directory and in its run directory; anything else there is not its own.
DATA = ("artifacts", "build", "containers", "content", "images", "layers", "manifests", "mapped", "names", "networks",
        "pods", "secrets", "trash", "volumes")  # fmt: skip
RUN = ("containers", "containers-conf.json", "events", "mounts", "network.json", "networks", "runtime",
       "storage-conf.json", "storage-probe.json", "told-single-id", "userns.lock")  # fmt: skip
_RUN_PREFIXES = ("netns.", "slirp.")


def reset(engine: Engine) -> list[str]:
    """Remove it all; paths in the data and run directories that are not rl's and stay. Raises RlError."""
    paths = engine.paths
    for _ in range(20):
        _remove_containers(engine)
        _unmount(paths)
        with records_lock(paths, exclusive=True):
            if containers.ids(paths):
                continue  # somebody made one meanwhile
            for name in os.listdir(paths.data):
                if _is_ours(name, DATA, (".probe-",)) and name != "trash":
                    trash.discard(paths, f"{paths.data}/{name}")
            break
    else:
        raise StateError("reset: containers are made faster than they can be removed", "end what makes them")
    from rl.engine.events import emit

    emit(paths, "system", "reset", "", "")
    trash.empty(paths)
    left = _remove_ours(paths, paths.data, DATA, (".probe-",))
    _remove_tree(paths, paths.cache)
    return left + _remove_ours(paths, paths.run, RUN, _RUN_PREFIXES)


def _remove_containers(engine: Engine) -> None:
    from rl.engine.rm import rm
    from rl.engine.stop import stop

    ids = containers.ids(engine.paths)
    if not ids:
        return
    stop(engine, [], all=True)  # all at once; what does not stop is told by its removal
    for _, error in rm(engine, ids, force=True, ignore=True, volumes=True, time=0):
        if error is not None:
            raise error


def _unmount(paths: Paths) -> None:
    """What `rl mount` and `rl volume mount` of real root have mounted here; a user's mounts end with the shell."""
    from rl.kernel import mount

    tops = tuple(os.path.realpath(top) + "/" for top in (paths.data, paths.run))
    for point, _ in reversed(proc.mounts()):
        if point.startswith(tops):
            try:
                mount.umount(point, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
            except OSError as error:
                raise RlError(f"unmount {point}: {error.strerror}", "who mounted it has to unmount it") from None


def _is_ours(name: str, names: tuple[str, ...], prefixes: tuple[str, ...]) -> bool:
    return name in names or name.startswith(prefixes)


def _remove_ours(paths: Paths, directory: str, names: tuple[str, ...], prefixes: tuple[str, ...]) -> list[str]:
    """Empty *directory* and remove it; what is not rl's, and so it, stays and is returned."""
    left = []
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        return []
    for name in found:
        if _is_ours(name, names, prefixes) or name.endswith(".tmp"):
            _remove_tree(paths, f"{directory}/{name}")
        else:
            left.append(f"{directory}/{name}")
    try:
        os.rmdir(directory)
    except OSError:
        pass  # something is left in it, or it is a mount point
    return left


def _remove_tree(paths: Paths, path: str) -> None:
    try:
        trash.remove_tree(path)
    except PermissionError:  # files of subordinate ids
        userns.call(paths.run, trash.remove_tree, path)
    except OSError as error:
        raise RlError(f"remove {error.filename or path}: {error.strerror}") from None
