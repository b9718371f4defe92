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
from rl.errors import (
    AmbiguousNameError,
    ConflictError,
    CorruptRecordError,
    NoSuchContainerError,
    RlError,
    StateError,
    UsageError,
)
from rl.kernel import proc
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState, RestartPolicy
    from rl.config.paths import Paths

HEX = frozenset("0123456789abcdef")

NO_RESTART: RestartPolicy = {"policy": "no", "retries": 0}

#: An empty file in the directory of a container with --rm: its records need not outlive the host's boot.
PASSING = "passing"
#: States of a container with processes.
LIVE = frozenset(("running", "paused", "stopping"))
#: States in which a monitor must be alive. "restarting": it waits to start the container again; "initialized": the
#: container's process waits for `rl start`.
MONITORED = LIVE | {"initialized", "restarting"}


def now() -> str:
    """The time as records keep it: RFC 3339, UTC, nanoseconds."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


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


def tidy(paths: Paths, live: set[str]) -> None:
    """Sweep where something was left (rl/engine/leftovers.py). *live*: the containers that run.

    Costs four directory reads when there is nothing, which is nearly always.
    """
    try:
        records, runs = os.listdir(paths.containers), os.listdir(f"{paths.run}/containers")
        clean = (
            len(os.listdir(paths.names)) <= len(records)
            and live.issuperset(runs)
            and not any(name[0] == "." for name in records)
            and not any(name.startswith(("netns.", "slirp.")) for name in os.listdir(paths.run))
        )
    except OSError:
        return
    if not clean:
        from rl.engine.leftovers import sweep as sweep_all

        sweep_all(paths)


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
        if HEX.issuperset(name):
            found = [i for i in ids(paths) if i.startswith(name)]
            found = [i for i in found if os.path.exists(f"{paths.container(i)}/config.json")]
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
    except CorruptRecordError:
        directory = paths.container(container_id)
        if _is_torn(f"{directory}/config.json") and os.path.exists(f"{directory}/{PASSING}"):
            _after_power_cut(paths, container_id, "config.json")
        raise
    if not isinstance(record.get("id"), str) or not isinstance(record.get("name"), str):
        path = f"{paths.container(container_id)}/config.json"
        raise CorruptRecordError(f"read {path}: no id and name in it", _CORRUPT_HINT)
    return record  # type: ignore[return-value]


def read_state(paths: Paths, container_id: str) -> ContainerState:
    """Where it stands, corrected against reality. Raises NoSuchContainerError, CorruptRecordError."""
    path = f"{paths.container(container_id)}/state.json"
    state: ContainerState = {}
    for _ in range(3):
        try:
            state = _read(path)  # type: ignore[assignment]
        except FileNotFoundError:
            raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
        except CorruptRecordError:
            if not _is_torn(path):
                raise
            _after_power_cut(paths, container_id, "state.json")
            continue
        if not _is_state(state):
            raise CorruptRecordError(f"read {path}: no state of a container", _CORRUPT_HINT)
        if state["status"] not in MONITORED or userns.monitor_pid(f"{paths.container_run(container_id)}/lock") > 0:
            return state  # a lock held without a pid in it is somebody's who buries it just now
        buried = _bury(paths, container_id, state)
        if buried:
            return buried
    if not state:
        raise CorruptRecordError(f"read {path}: it is empty", _CORRUPT_HINT)
    return state


def limits(paths: Paths, config: ContainerConfig) -> dict[str, Any]:
    """The limits the container has, or will have when it starts: as asked at create, or as `rl update` left them."""
    found: dict[str, Any] = updated(paths, config["id"]).get("limits", config["limits"])
    return found


def restart_policy(paths: Paths, config: ContainerConfig) -> RestartPolicy:
    """The restart policy it has: as asked at create, or as `rl update` left it."""
    changed: RestartPolicy | None = updated(paths, config["id"]).get("restart")
    return changed or config.get("restart") or NO_RESTART


def environment(paths: Paths, config: ContainerConfig) -> list[str]:
    """The environment asked for, with what `rl update` changed since. Raises CorruptRecordError."""
    changes: dict[str, str | None] = updated(paths, config["id"]).get("env", {})
    if not changes:
        return config["env"]
    kept = [line for line in config["env"] if line.partition("=")[0] not in changes]
    return kept + [f"{name}={value}" for name, value in changes.items() if value is not None]


def updated(paths: Paths, container_id: str) -> dict[str, Any]:
    """updated.json: what `rl update` changed; {} when it changed nothing. Raises CorruptRecordError."""
    try:
        return _read(f"{paths.container(container_id)}/updated.json")
    except FileNotFoundError:
        return {}


def _is_state(state: ContainerState) -> bool:
    """Whether it has what the correction needs, of the right types."""
    network = state.get("network", {})
    helpers = network.get("helpers", []) if isinstance(network, dict) else None
    return (
        isinstance(state.get("status"), str)
        and isinstance(state.get("pid", 0), int)
        and isinstance(state.get("pid_start", 0), int)
        and isinstance(state.get("exit_code", 0), int)
        and isinstance(helpers, list)
        and (not helpers or all(
            isinstance(item, list) and [type(number) for number in item] == [int, int] for item in helpers
        ))
    )


def _bury(paths: Paths, container_id: str, state: ContainerState) -> ContainerState | None:
    """Record the end of a container whose monitor is gone, and end what it left running.

    Holds the lock meanwhile, as a monitor would: `rl start` must not be undone by one that only looks.
    None when the record has changed or the lock is taken: look again.
    """
    from rl.engine.prefork import forget_run_directory, take_lock

    try:
        lock = take_lock(paths, container_id)
    except StateError:
        return None
    except OSError:
        lock = -1  # no space, no permission: the truth is told all the same
    try:
        try:
            if _read(f"{paths.container(container_id)}/state.json") != state:
                return None  # the monitor wrote its last word between our two looks
        except FileNotFoundError:
            return None
        _end_of(paths, container_id, state)
        removed = _remove_as_asked(paths, container_id)
    finally:
        forget_run_directory(paths, container_id)
        if lock >= 0:
            os.close(lock)
    if removed:
        what = "its monitor was killed, and --rm removed it"
        raise NoSuchContainerError(f"no such container {container_id[:12]}: {what}")
    return state


def _remove_as_asked(paths: Paths, container_id: str) -> bool:
    """--rm, which the monitor could not do any more; whether the container is gone."""
    try:
        config = read_config(paths, container_id)
        if not config.get("remove"):
            return False
        from rl.engine import rm
        from rl.storage import trash

        rm.forget(paths, container_id, config, with_volumes=True)
    except (OSError, RlError):
        return False
    try:
        trash.empty(paths)
    except (OSError, RlError):
        pass  # the next command that removes something
    return True


def _is_torn(path: str) -> bool:
    """Whether a record is what a power cut leaves of a file that was not fsynced: a name, and nothing or zeros."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not os.read(fd, 1 << 20).strip(b"\0")
    finally:
        os.close(fd)


def _after_power_cut(paths: Paths, container_id: str, name: str) -> None:
    """Make true again what a power cut has torn: record *name*. An --rm container is gone, another one has ended.

    Records of --rm containers are not fsynced (rl.engine.create.record), but :data:`PASSING` says what they are: names
    reach the disk in order. Of others only state.json can be torn, which the monitor rewrites and no disk may hold up.
    """
    from rl.engine import rm
    from rl.engine.prefork import forget_run_directory, take_lock

    directory = paths.container(container_id)
    try:
        lock = take_lock(paths, container_id)
    except StateError:
        time.sleep(0.01)
        return  # somebody else is at it
    try:
        if not _is_torn(f"{directory}/{name}"):
            return
        if not os.path.exists(f"{directory}/{PASSING}"):
            state: ContainerState = {"status": "exited", "pid": 0, "started": "", "finished": now(), "exit_code": 255}
            state["error"] = "the host lost its power"
            write_state(paths, container_id, state, sync=True)
            return
        config: ContainerConfig = {} if name == "config.json" else read_config(paths, container_id)
        rm.forget(paths, container_id, config, with_volumes=True)
    finally:
        forget_run_directory(paths, container_id)
        os.close(lock)
    raise NoSuchContainerError(f"no such container {container_id[:12]}: it had --rm, and the host lost its power")


def _end_of(paths: Paths, container_id: str, state: ContainerState) -> None:
    """Write the end that the monitor could not write. One that waited to run again has ended before: that stays."""
    ended = state["status"] == "restarting"
    same_boot = state.get("boot_id") == proc.boot_id()
    if same_boot:
        end_process(state.get("pid", 0), state.get("pid_start", 0))
        helpers = state.get("network", {}).get("helpers", [])
        for pid, start in helpers:
            end_process(pid, start)
        _remove_cgroup(state.get("cgroup", ""))
        from rl.runtime import sessions

        sessions.end_all(paths.container_run(container_id))
    state["status"] = "exited"
    state["pid"] = 0
    if not ended:
        state["finished"] = now()
        state["exit_code"] = 137 if same_boot else 255
    state["error"] = "the monitor was killed" if same_boot else "the host was restarted"
    try:
        write_state(paths, container_id, state)
    except OSError:
        pass  # a full disk: the truth is told all the same
    if ended:
        return  # its monitor has told it
    try:
        config = read_config(paths, container_id)
    except RlError:
        return
    from rl.engine import events

    events.emit_container(paths, config, "died", "cleanup", containerExitCode=str(state["exit_code"]))


def _remove_cgroup(path: str) -> None:
    if path:
        from rl.runtime import cgroup

        try:
            left = cgroup.Cgroup(path)
            left.kill()
            left.remove()
        except RlError:
            pass  # not ours any more, or a process that cannot end: the record is what matters


def end_process(pid: int, start: int) -> None:
    """SIGKILL exactly the process that started at *start* (clock ticks after boot), and wait for its end."""
    if pid <= 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if proc.start_time(pid) != start:
            return
        proc.pidfd_send_signal(pidfd, 9)
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
