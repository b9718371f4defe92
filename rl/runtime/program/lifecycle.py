"""create, start, run, kill, delete: the life of a container (OCI runtime specification, runtime.md "Lifecycle")."""

from __future__ import annotations

import _socket
import os
import time

from rl.config.jsonio import loads, read_json, write_json
from rl.errors import RlError, StateError, UsageError, from_wire
from rl.kernel import process as kp
from rl.runtime import cgroup, container, hooks, launch, launcher, validate
from rl.runtime.program import console, groups, store
from rl.runtime.sync import PACKET, Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.activation import Notify
    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record

#: seconds that a killed container gets to end
_PATIENCE = 10.0


def read_bundle(path: str) -> tuple[str, dict[str, Any]]:
    """(absolute path of the bundle, its config.json, checked). Raises UsageError, naming the JSON path at fault."""
    bundle = os.path.abspath(path or ".")
    file = f"{bundle}/config.json"
    try:
        spec = read_json(file)
    except FileNotFoundError:
        raise UsageError(
            f"read {file}: no such file", "`rl-runtime spec` writes one; --bundle names the directory that has it"
        ) from None
    except OSError as error:
        raise UsageError(f"read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"read {file}: not a JSON document: {error}") from None
    validate.check(spec)
    root = os.path.join(bundle, spec["root"]["path"])
    if not os.path.isdir(root):
        raise UsageError(f"root.path: {root} is not a directory", "unpack the root file system there")
    return bundle, spec


def preserved(count: int) -> list[int]:
    """Descriptors 3 to 2 + *count*, for --preserve-fds. Raises UsageError for one that is not open."""
    if count < 0:
        raise UsageError("--preserve-fds: must not be negative")
    fds = list(range(3, 3 + count))
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            raise UsageError(f"--preserve-fds {count}: descriptor {fd} is not open") from None
    return fds


class _Creation:
    """What create and run share: a container up to "waiting for start", recorded."""

    def __init__(self, program: Program, options: dict[str, Any], container_id: str, detached: bool) -> None:
        validate.check_id(container_id)  # before the bundle is looked at
        self.program = program
        self.options = options
        # What systemd passed to us stands before what --preserve-fds means.
        sockets = 0
        if "LISTEN_FDS" in os.environ:
            from rl.runtime import activation

            sockets = activation.listen_fds(os.environ)
        self.io = Io(preserve=preserved(options.get("preserve-fds", 0) + sockets))
        self.bundle, self.spec = read_bundle(options.get("bundle", ""))
        terminal = bool((self.spec.get("process") or {}).get("terminal"))
        self.console = options.get("console-socket", "")
        console.check(terminal, self.console, detached)
        if not self.spec.get("process"):
            raise UsageError("process: missing, and a container needs one to be started")
        for warning in validate.warnings(self.spec):
            program.warn(warning)
        self.record = program.store().reserve(container_id)
        self.created: container.Created | None = None

    def make(self) -> container.Created:
        """Create the process and write the record; when it fails, nothing is left."""
        record, spec, options = self.record, self.spec, self.options
        group = None
        listener = None
        try:
            if "LISTEN_FDS" in os.environ or "NOTIFY_SOCKET" in os.environ:
                from rl.runtime import activation

                activation.adapt(spec, os.environ, record.directory)
            write_json(f"{record.directory}/config.json", spec, sync=False)
            group = groups.Group(self.program, spec, record.id)
            group.prepare()
            record.note_cgroup(group.path)
            listener = _listen(record)
            created = self.created = container.create(
                self.bundle, spec, self.io, container_id=record.id, cgroup_procs=group.procs_path,
                place=self._placing(group) if group.needs_pid else None, cache_dir=cache_directory(),
                die_with_parent=False,
                listener=listener.fileno(), no_pivot=bool(options.get("no-pivot")),
                new_keyring=not options.get("no-new-keyring"),
            )
            for warning in created.warnings:
                self.program.warn(warning)
            if self.console:
                console.send(self.console, created.master)
                os.close(created.master)
                created.master = -1
            self._record(created.pid)
            write_pid(options.get("pid-file", ""), created.pid)
            created.leave_to_listener()
        except BaseException:
            self._undo(group)
            raise
        finally:
            if listener is not None:
                listener.close()
        record.release()
        return created

    def _placing(self, group: groups.Group) -> Callable[[int], None]:
        def place(pid: int) -> None:
            group.place(pid)
            self.record.note_cgroup(group.path)

        return place

    def _record(self, pid: int) -> None:
        spec = self.spec
        self.record.state = {
            "ociVersion": spec["ociVersion"], "id": self.record.id, "pid": pid, "start_time": kp.start_time(pid),
            "boot": kp.boot_id(), "bundle": self.bundle, "rootfs": os.path.join(self.bundle, spec["root"]["path"]),
            "created": store.now(), "owner": os.getuid(),
            "annotations": spec.get("annotations") or {}, "hooks": bool(spec.get("hooks")),
        }
        self.record.write()

    def _undo(self, group: groups.Group | None) -> None:
        if self.created is not None:
            self.created.abandon()
        if group is not None:
            try:
                group.remove()
            except RlError as error:
                self.program.warn(error.message)
        self.record.remove()


def cache_directory() -> str:
    """Where compiled seccomp filters are kept; "" where there is no home."""
    home = os.environ.get("HOME", "")
    base = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    return f"{base}/rl" if base else ""


def _listen(record: Record) -> _socket.socket:
    """The socket that init waits at; bound by descriptor, as its path may be too long for a socket address."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    directory = os.open(record.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/start")
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise RlError(f"listen on {record.start_path}: {error.strerror}") from None
    finally:
        os.close(directory)
    return listener


def write_pid(path: str, pid: int) -> None:
    """The --pid-file: complete or not there."""
    if not path:
        return
    try:
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise RlError(f"write the pid file {path}: {error.strerror}") from None


def create(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Make a container; its init waits for start and is orphaned when this process ends."""
    _Creation(program, options, operands[0], detached=True).make()
    return 0


def start(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Let the command of a created container run."""
    record = program.store().locked(operands[0])
    notify = _notify(record)
    try:
        begin(record)
    finally:
        record.release()
    if notify is not None:
        _wait_ready(record, notify)
    return 0


def _notify(record: Record) -> Notify | None:
    """The socket the container says READY=1 to, where our service manager asks for it."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from rl.runtime import activation

    return activation.Notify.of(record.directory, os.environ)


def _wait_ready(record: Record, notify: Notify) -> None:
    """The service manager sees the unit as started when the container says so: until then we stay."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return  # it has ended
    try:
        notify.wait_ready(record.pid, pidfd)
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
    if data[:1] == launcher.PATH_LETTER:
        raise launch.explain(*launcher.parse(data))
    spec = record.spec() if record.state.get("hooks") else {}
    if hooks.wanted(spec, "poststart"):
        try:
            hooks.run(spec, "poststart", hook_state(record, spec, "running"))
        except RlError:
            kill_all(record)
            raise


def hook_state(record: Record, spec: dict[str, Any], status: str) -> dict[str, Any]:
    """The state document for hooks."""
    return hooks.state(spec, record.state["bundle"], record.id, status, record.pid)


def run(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Create and start; wait for the end and delete, unless detached."""
    detached = bool(options.get("detach"))
    making = _Creation(program, options, operands[0], detached)
    created = making.make()
    record = program.store().locked(operands[0])
    notify = _notify(record)
    relay = None
    try:
        if created.master >= 0:
            relay = console.Relay(created.master)
        if not detached:
            console.forward_signals(created.pidfd, relay)
        begin(record)
    except BaseException:
        if relay is not None:
            relay.close()
        destroy(program, record)
        raise
    record.release()
    if detached:
        if notify is not None:
            _wait_ready(record, notify)
        return 0
    try:
        status = console.supervise(created.pid, created.pidfd, relay, notify)
    finally:
        if relay is not None:
            relay.close()
    if not options.get("keep"):
        destroy(program, program.store().locked(record.id))
    return status if status >= 0 else 128 - status


def kill(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Send a signal to init; with --all, and with KILL where init does not take the others along, to all."""
    from rl.config.signals import parse_signal

    number = parse_signal(operands[1] if len(operands) > 1 else "TERM")
    record = program.store().load(operands[0])
    everything = bool(options.get("all")) or (number == 9 and not _has_own_pids(record))
    path = record.cgroup
    pid = record.pid
    if everything and path:
        _signal_all(cgroup.Cgroup(path), number)
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
        kp.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise RlError(f"send signal {number} to container {record.id}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def _signal_all(group: cgroup.Cgroup, number: int) -> None:
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
        _signal(record, pid, 9)
    if record.cgroup:
        cgroup.Cgroup(record.cgroup).kill()
    end = time.monotonic() + _PATIENCE
    while pid and record.pid == pid:
        if time.monotonic() > end:
            raise StateError(f"container {record.id}: its process {pid} does not end after SIGKILL")
        time.sleep(0.001)


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
    if record.cgroup:
        try:
            groups.remove(record.cgroup)
        except RlError as error:
            program.warn(error.message)
    if record.state.get("hooks"):
        spec = record.spec()
        for failure in hooks.run_all(spec, "poststop", hook_state(record, spec, "stopped")):
            program.warn(failure)
    record.remove()


COMMANDS: dict[str, Callable[[Program, dict[str, Any], list[str]], int]] = {
    "create": create, "start": start, "run": run, "kill": kill, "delete": delete,
}
