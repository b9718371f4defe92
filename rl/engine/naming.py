"""Names of containers, and the staging directories in which their records are made.

A name is the symbolic link ``names/<name>``; symlink(2) fails where it is taken. Whoever removes one holds the
directory's lock. Called by create, rename, rm, and by the sweep of what killed commands left.
"""

from __future__ import annotations

import fcntl
import os

from rl.engine.containers import ids, read_config, read_state
from rl.errors import ConflictError, CorruptRecordError, NoSuchContainerError, RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths


def check_name(name: str) -> None:
    """Raises UsageError unless *name* is one Podman would take."""
    from rl.engine.spec.values import is_name

    if not is_name(name):
        raise UsageError(
            f"container name {name!r}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument",
            "use letters, digits, '_', '.' and '-', and begin with a letter or a digit",
        )


def take_name(paths: Paths, name: str, container_id: str) -> None:
    """Give *name* to the container, or raise ConflictError: symlink(2) fails when it exists."""
    link = f"{paths.names}/{name}"
    target = f"../containers/{container_id}"
    looked = ""
    while True:
        try:
            os.symlink(target, link)
            return
        except FileExistsError:
            pass
        owner = _free_stale(paths, link)
        if owner and owner == looked:
            raise ConflictError(
                f"the container name {name!r} is already in use by {owner[:12]}",
                f"remove that container with `rl rm {name}`, use --replace, or choose another name",
            )
        if owner:
            looked = owner
            try:
                read_state(paths, owner)  # removes one with --rm whose monitor was killed
                read_config(paths, owner)  # or that was torn by a power cut
            except (NoSuchContainerError, CorruptRecordError):
                continue


def _free_stale(paths: Paths, link: str) -> str:
    """The container that has the name *link*; "" when it is free now, for a killed removal had left it.

    Under a lock: between the look at a stale link and its removal another process could have taken the name.
    """
    names = os.open(paths.names, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(names, fcntl.LOCK_EX)
        owner = os.path.basename(os.readlink(link))
        if os.path.isdir(paths.container(owner)) or _being_made(paths, owner):
            return owner
        os.unlink(link)
    except FileNotFoundError:
        pass  # its container was removed this moment
    finally:
        os.close(names)
    return ""


def release_name(paths: Paths, name: str, container_id: str) -> None:
    """Free *name* if it is the container's; under the lock, for a stale name may become another's any time."""
    link = f"{paths.names}/{name}"
    names = os.open(paths.names, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(names, fcntl.LOCK_EX)
        if name and os.path.basename(os.readlink(link)) == container_id:
            os.unlink(link)
    except OSError:
        pass  # it is not there, or no link at all
    finally:
        os.close(names)


def hold_staging(directory: str) -> int:
    """Make a staging directory; while the returned descriptor is open, it belongs to a living process."""
    while True:
        os.mkdir(directory, 0o700)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # swept before it was locked
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def _being_made(paths: Paths, container_id: str) -> bool:
    """Whether a living process is writing this container's record; what a killed one left is removed."""
    staging = f"{paths.containers}/.{container_id}.new"
    try:
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # It may have become the container this very moment.
        return os.path.isdir(paths.container(container_id))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # kept until it is gone: see hold_staging
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(staging)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # it became the container, or somebody else swept it
        return os.path.isdir(paths.container(container_id))
    finally:
        os.close(fd)
    return False


def sweep(paths: Paths) -> None:
    """Remove what killed commands left: half-made records, names that point nowhere."""
    for name in os.listdir(paths.containers):
        if name.startswith(".") and name.endswith(".new"):
            _being_made(paths, name[1:-4])
    links = os.listdir(paths.names)
    renamed = len(links) > len(ids(paths))
    for name in links:
        link = f"{paths.names}/{name}"
        try:
            container_id = os.path.basename(os.readlink(link))
            if not os.path.isdir(paths.container(container_id)):
                _free_stale(paths, link)
            elif renamed and read_config(paths, container_id)["name"] != name:
                _free_second(paths, name, container_id)
        except (OSError, RlError):
            continue


def _free_second(paths: Paths, name: str, container_id: str) -> None:
    """Free a name that the container's record does not have: a killed `rl rename` had left it."""
    names = os.open(paths.names, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(names, fcntl.LOCK_EX)  # a rename at work holds it
        if read_config(paths, container_id)["name"] != name:
            os.unlink(f"{paths.names}/{name}")
    finally:
        os.close(names)
