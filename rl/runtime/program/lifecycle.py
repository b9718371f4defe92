"""start, kill, delete: the life of a container that exists (OCI runtime specification, runtime.md "Lifecycle").

What takes a specification is in ``creating``; these need only the record, so they import little: three programs make
one container, and most of the time of each is its start.
"""

from __future__ import annotations

import _socket
import posix as os  # as rl.kernel.proc
import time

from rl.config.jsonio import loads
from rl.errors import RlError, StateError, from_wire
from rl.kernel import proc

PACKET = 1 << 15  # as rl.runtime.sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.activation import Notify
    from rl.runtime.cgroup import Cgroup
    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record

#: seconds that a killed container gets to end
_PATIENCE = 10.0


def start(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Let the command of a created container run."""
    record = program.store().locked(operands[0])
    notify = notify_of(record)
    try:
        begin(record)
    finally:
        record.release()
    if notify is not None:
        wait_ready(record, notify)
    return 0


def notify_of(record: Record) -> Notify | None:
    """The socket the container says READY=1 to, where our service manager asks for it."""
    if b"NOTIFY_SOCKET" not in os.environ:
        return None
    from os import environ

    from rl.runtime import activation

    return activation.Notify.of(record.directory, environ)


def wait_ready(record: Record, notify: Notify) -> None:
    """The service manager sees the unit as started when the container says so: until then we stay."""
    pid: int = record.state["pid"]
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        notify.relay(pid)  # it has ended, and may have said something
        notify.close()
        return
    try:
        notify.wait_ready(pid, pidfd)
    finally:
        os.close(pidfd)
        notify.close()


def begin(record: Record) -> None:
    """Start a container whose lock is held; returns when its command runs. Raises the error of its start."""
    status = record.status
    if status != "created":
        raise StateError(
            f"container {record.id} is {status}: only a created one can be started",
            f"rl-runtime delete {record.id}, and create it again" if status == "stopped" else "",
        )
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    directory = os.open(record.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/start")
        connection.send(b"S")
        data = connection.recv(PACKET)
    except OSError as error:
        raise RlError(f"start container {record.id}: its init does not answer: {error.strerror}") from None
    finally:
        connection.close()
        os.close(directory)
    os.unlink(record.start_path)
    if data[:1] == b"E":
        raise from_wire(loads(data[1:].decode()))
    if data:
        from rl.runtime import launch, launcher

        raise launch.explain(*launcher.parse(data))
    if record.state.get("hooks"):
        _poststart(record)


def _poststart(record: Record) -> None:
    from rl.runtime import hooks

    spec = record.spec()
    try:
        hooks.run(spec, "poststart", hook_state(record, spec, "running"))
    except RlError:
        kill_all(record)
        raise


def hook_state(record: Record, spec: dict[str, Any], status: str) -> dict[str, Any]:
    """The state document for hooks."""
    from rl.runtime import hooks

    return hooks.state(spec, record.state["bundle"], record.id, status, record.pid)


def kill(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Send a signal to init; with --all, and with KILL where init does not take the others along, to all."""
    from rl.config.signals import parse_signal

    number = parse_signal(operands[1] if len(operands) > 1 else "TERM")
    record = program.store().load(operands[0])
    everything = bool(options.get("all")) or (number == 9 and not _has_own_pids(record))
    path = record.cgroup
    pid = record.pid
    if everything and path:
        _signal_all(group_of(path), number)
        if pid == 0 and options.get("all"):
            return 0
    if pid == 0:
        raise StateError(f"container {record.id} is not running: container not running", "")
    if not (everything and path):
        _signal(record, pid, number)
    return 0


def _has_own_pids(record: Record) -> bool:
    try:
        namespaces = (record.spec().get("linux") or {}).get("namespaces") or []
    except RlError:
        return True
    return any(entry["type"] == "pid" and not entry.get("path") for entry in namespaces)


def _signal(record: Record, pid: int, number: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise StateError(f"container {record.id} is not running: container not running") from None
    try:
        if record.pid != pid:
            raise StateError(f"container {record.id} is not running: container not running")
        proc.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise RlError(f"send signal {number} to container {record.id}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def group_of(path: str) -> Cgroup:
    """The cgroup at *path*."""
    from rl.runtime.cgroup import Cgroup

    return Cgroup(path)


def _signal_all(group: Cgroup, number: int) -> None:
    if number == 9:
        group.kill()
        return
    for pid in group.pids():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def kill_all(record: Record) -> None:
    """SIGKILL to all of a container; returns when init has ended. Raises RlError after some seconds."""
    pid = record.pid
    if pid:
        try:
            _signal(record, pid, 9)
        except StateError:
            pass  # it has ended meanwhile, as was wanted
    path = record.cgroup
    if path and not _is_empty(path):
        group_of(path).kill()
    end = time.monotonic() + _PATIENCE
    while pid and record.pid == pid:
        if time.monotonic() > end:
            raise StateError(f"container {record.id}: its process {pid} does not end after SIGKILL")
        time.sleep(0.001)


def _is_empty(path: str) -> bool:
    """Whether no process is in the cgroup, nor below; False also where it cannot be told."""
    try:
        with open(f"{path}/cgroup.events", encoding="utf-8") as file:
            return "populated 0\n" in file.read()
    except OSError:
        return False


def _is_removed(path: str) -> bool:
    """Remove a cgroup that holds nothing, as most do by now; True when it is gone. A scope of systemd's takes more."""
    if ".scope/" in path + "/":
        return False
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def delete(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Remove a stopped or created container; with --force any."""
    force = bool(options.get("force"))
    try:
        record = program.store().locked(operands[0])
    except RlError as error:
        if not force or type(error).__name__ not in ("NotFoundError", "CorruptRecordError"):
            raise
        record = program.store().unreadable(operands[0])
    try:
        status = record.status
        if not force and status not in ("stopped", "created"):
            raise StateError(
                f"container {record.id} is {status}: only a stopped one can be deleted",
                f"rl-runtime kill {record.id} KILL, or delete --force",
            )
        destroy(program, record)
    finally:
        record.release()
    return 0


def destroy(program: Program, record: Record) -> None:
    """End what runs, remove the cgroup, run the poststop hooks, remove the record: each whatever came before."""
    kill_all(record)
    path = record.cgroup
    if path and not _is_removed(path):
        try:
            group_of(path).remove()
        except RlError as error:
            program.warn(error.message)
    if record.state.get("hooks"):
        from rl.runtime import hooks

        spec = record.spec()
        for failure in hooks.run_all(spec, "poststop", hook_state(record, spec, "stopped")):
            program.warn(failure)
    record.remove()


COMMANDS: dict[str, Callable[[Program, dict[str, Any], list[str]], int]] = {
    "start": start, "kill": kill, "delete": delete,
}
