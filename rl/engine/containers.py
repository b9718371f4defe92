"""The records of containers: finding them, reading them, keeping them true.

A container is a directory ``containers/<id>`` whose config.json exists; its name is the symbolic
link ``names/<name>``. Reading takes no lock. A record that says "running" while no monitor holds
the lock is corrected on sight: the monitor was killed, or the host rebooted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from rl.config.jsonio import read_json, write_json
from rl.errors import AmbiguousNameError, ConflictError, CorruptRecordError, NoSuchContainerError, RlError, UsageError
from rl.kernel import process
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, ContainerState
    from rl.config.paths import Paths

_HEX = frozenset("0123456789abcdef")
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")

#: States in which a monitor must be alive.
LIVE = frozenset(("running", "paused", "stopping"))


def now() -> str:
    """The time as records keep it: RFC 3339, UTC, nanoseconds."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def check_name(name: str) -> None:
    """Raises UsageError unless *name* is one Podman would take."""
    if not name or name[0] not in _NAME_FIRST or not _NAME_REST.issuperset(name) or len(name) > 255:
        raise UsageError(
            f"container name {name!r} is not valid",
            "use letters, digits, '_', '.' and '-', and begin with a letter or a digit",
        )


def take_name(paths: Paths, name: str, container_id: str) -> None:
    """Give *name* to the container, or raise ConflictError: symlink(2) fails when it exists."""
    link = f"{paths.names}/{name}"
    target = f"../containers/{container_id}"
    for _ in range(2):
        try:
            os.symlink(target, link)
            return
        except FileExistsError:
            pass
        owner = os.path.basename(os.readlink(link))
        if os.path.isdir(paths.container(owner)) or _being_made(paths, owner):
            raise ConflictError(
                f"the container name {name!r} is already in use by {owner[:12]}",
                f"remove that container with `rl rm {name}`, use --replace, or choose another name",
            )
        os.unlink(link)  # a killed removal left it
    raise ConflictError(f"the container name {name!r} is already in use")


def hold_staging(directory: str) -> int:
    """A held lock on a staging directory: while it is open, the directory belongs to a living process."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _being_made(paths: Paths, container_id: str) -> bool:
    """Whether a living process is writing this container's record; what a killed one left is removed."""
    staging = f"{paths.containers}/.{container_id}.new"
    try:
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # It may have become the container this very moment.
        return os.path.isdir(paths.container(container_id))
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    for name in os.listdir(staging):
        os.unlink(f"{staging}/{name}")
    os.rmdir(staging)
    return False


def sweep(paths: Paths) -> None:
    """Remove what killed commands left: half-made records, names that point nowhere."""
    for name in os.listdir(paths.containers):
        if name.startswith(".") and name.endswith(".new"):
            _being_made(paths, name[1:-4])
    for name in os.listdir(paths.names):
        link = f"{paths.names}/{name}"
        try:
            owner = os.path.basename(os.readlink(link))
            if not os.path.isdir(paths.container(owner)) and not _being_made(paths, owner):
                os.unlink(link)
        except OSError:
            continue


def ids(paths: Paths) -> list[str]:
    """All container ids, in no order."""
    try:
        return [name for name in os.listdir(paths.containers) if len(name) == 64]
    except FileNotFoundError:
        return []


def find(paths: Paths, name: str) -> str:
    """The id of the container with this name, id or unambiguous id prefix."""
    if name and "/" not in name and name not in (".", ".."):
        try:
            container_id = os.path.basename(os.readlink(f"{paths.names}/{name}"))
        except OSError:
            container_id = name if len(name) == 64 else ""
        if container_id and os.path.exists(f"{paths.container(container_id)}/config.json"):
            return container_id
        if _HEX.issuperset(name):
            found = [i for i in ids(paths) if i.startswith(name) and os.path.exists(f"{paths.container(i)}/config.json")]
            if len(found) == 1:
                return found[0]
            if found:
                raise AmbiguousNameError(
                    f"{len(found)} containers have an id that begins with {name}", "give more of the id, or the name"
                )
    raise NoSuchContainerError(
        f'no container with name or ID "{name}" found: no such container', "`rl ps -a` lists all containers"
    )


def _read(path: str) -> dict[str, object]:
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptRecordError(f"read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptRecordError(f"read {path}: {error}", _CORRUPT_HINT) from None
    if not isinstance(record, dict):
        raise CorruptRecordError(f"read {path}: not a JSON object", _CORRUPT_HINT)
    return record


_CORRUPT_HINT = "restore the file from a backup, or remove the container with `rl rm --force`"


def read_config(paths: Paths, container_id: str) -> ContainerConfig:
    """What was asked. Raises NoSuchContainerError, CorruptRecordError."""
    try:
        record = _read(f"{paths.container(container_id)}/config.json")
    except FileNotFoundError:
        raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
    if not isinstance(record.get("id"), str) or not isinstance(record.get("name"), str):
        path = f"{paths.container(container_id)}/config.json"
        raise CorruptRecordError(f"read {path}: no id and name in it", _CORRUPT_HINT)
    return record  # type: ignore[return-value]


def read_state(paths: Paths, container_id: str) -> ContainerState:
    """Where it stands, corrected against reality. Raises NoSuchContainerError, CorruptRecordError."""
    path = f"{paths.container(container_id)}/state.json"
    for _ in range(3):
        try:
            state: ContainerState = _read(path)  # type: ignore[assignment]
        except FileNotFoundError:
            raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
        if state.get("status") not in LIVE:
            return state
        if userns.monitor_pid(f"{paths.container_run(container_id)}/lock"):
            return state
        # The monitor may have written its last word between our two looks: look again.
        if state == _read(path):
            return _bury(paths, container_id, state)
    return state


def _bury(paths: Paths, container_id: str, state: ContainerState) -> ContainerState:
    """Record the end of a container whose monitor is gone, and end what it left running."""
    same_boot = state.get("boot_id") == process.boot_id()
    if same_boot:
        end_process(state.get("pid", 0), state.get("pid_start", 0))
        helpers = state.get("network", {}).get("helpers", [])
        for pid, start in helpers:
            end_process(pid, start)
    state["status"] = "exited"
    state["pid"] = 0
    state["finished"] = now()
    state["exit_code"] = 137 if same_boot else 255
    state["error"] = "the monitor was killed" if same_boot else "the host was restarted"
    try:
        write_state(paths, container_id, state)
    except OSError:
        pass  # a full disk: the truth is told all the same
    for name in ("lock", "attach"):
        try:
            os.unlink(f"{paths.container_run(container_id)}/{name}")
        except OSError:
            pass
    try:
        os.rmdir(paths.container_run(container_id))
    except OSError:
        pass
    return state


def end_process(pid: int, start: int) -> None:
    """SIGKILL exactly the process that started at *start* (clock ticks after boot), and wait for its end."""
    if pid <= 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if process.start_time(pid) != start:
            return
        process.pidfd_send_signal(pidfd, 9)
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(5000)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise RlError(f"kill process {pid}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def write_state(paths: Paths, container_id: str, state: ContainerState, sync: bool = False) -> None:
    """Replace state.json atomically. Only the holder of the container's lock may call this."""
    write_json(f"{paths.container(container_id)}/state.json", state, sync=sync)
