"""Making the record of a container true again: its monitor was killed, the host rebooted, or lost its power.

Called by :mod:`rl.engine.containers` when a read finds a record that says what is not so.
"""

from __future__ import annotations

import errno
import os
import select
import time

from rl.engine import containers, events, rm
from rl.engine.prefork import forget_run_directory, take_lock
from rl.errors import NoSuchContainerError, RlError, StateError
from rl.kernel import proc
from rl.runtime import cgroup, sessions
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, ContainerState
    from rl.config.paths import Paths


def bury(paths: Paths, container_id: str, state: ContainerState) -> ContainerState | None:
    """Record the end of a container whose monitor is gone, and end what it left running.

    Holds the lock meanwhile, as a monitor would: `rl start` must not be undone by one that only looks.
    None when the record has changed or the lock is taken: look again.
    """
    try:
        lock = take_lock(paths, container_id)
    except StateError:
        return None
    except OSError:
        lock = -1  # no space, no permission: the truth is told all the same
    try:
        try:
            if containers.read_record(f"{paths.container(container_id)}/state.json") != state:
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
        config = containers.read_config(paths, container_id)
        if not config.get("remove"):
            return False
        rm.forget(paths, container_id, config, with_volumes=True)
    except (OSError, RlError):
        return False
    try:
        trash.empty(paths)
    except (OSError, RlError):
        pass  # the next command that removes something
    return True


def is_torn(path: str) -> bool:
    """Whether a record is what a power cut leaves of a file that was not fsynced: a name, and nothing or zeros."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not os.read(fd, 1 << 20).strip(b"\0")
    finally:
        os.close(fd)


def after_power_cut(paths: Paths, container_id: str, name: str) -> None:
    """Make true again what a power cut has torn: record *name*. An --rm container is gone, another one has ended.

    Records of --rm containers are not fsynced (rl.engine.recording), but ``containers.PASSING`` says what they are:
    names reach the disk in order. Of others only state.json can be torn, which the monitor rewrites and no disk may
    hold up.
    """
    directory = paths.container(container_id)
    try:
        lock = take_lock(paths, container_id)
    except StateError:
        time.sleep(0.01)
        return  # somebody else is at it
    try:
        if not is_torn(f"{directory}/{name}"):
            return
        if not os.path.exists(f"{directory}/{containers.PASSING}"):
            state: ContainerState = {"status": "exited", "pid": 0, "started": "", "finished": containers.now(),
                                     "exit_code": 255, "error": "the host lost its power"}  # fmt: skip
            containers.write_state(paths, container_id, state, sync=True)
            return
        config: ContainerConfig = {} if name == "config.json" else containers.read_config(paths, container_id)
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
        sessions.end_all(paths.container_run(container_id))
    state["status"] = "exited"
    state["pid"] = 0
    if not ended:
        state["finished"] = containers.now()
        state["exit_code"] = 137 if same_boot else 255
    state["error"] = "the monitor was killed" if same_boot else "the host was restarted"
    try:
        containers.write_state(paths, container_id, state)
    except OSError:
        pass  # a full disk: the truth is told all the same
    if ended:
        return  # its monitor has told it
    try:
        config = containers.read_config(paths, container_id)
    except RlError:
        return
    events.emit_container(paths, config, "died", "cleanup", containerExitCode=str(state["exit_code"]))


def _remove_cgroup(path: str) -> None:
    if path:
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
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(5000)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise RlError(f"kill process {pid}: {error.strerror}") from None
    finally:
        os.close(pidfd)
