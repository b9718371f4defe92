"""create and run: from a bundle to a container."""

from __future__ import annotations

import _socket
import os

from rl.config.jsonio import read_json, write_json
from rl.errors import RlError, UsageError
from rl.kernel import process as kp
from rl.runtime import container, validate
from rl.runtime.program import common, console, groups, lifecycle, store
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record
    from rl.runtime.spawning import Created


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


class _Creation:
    """What create and run share: a container up to "waiting for start", recorded."""

    def __init__(self, program: Program, options: dict[str, Any], container_id: str, detached: bool) -> None:
        store.check_id(container_id)  # before the bundle is looked at
        self.program = program
        self.options = options
        # What systemd passed to us stands before what --preserve-fds means.
        sockets = 0
        if "LISTEN_FDS" in os.environ:
            from rl.runtime import activation

            sockets = activation.listen_fds(os.environ)
        self.io = Io(preserve=common.preserved(options.get("preserve-fds", 0) + sockets))
        self.bundle, self.spec = read_bundle(options.get("bundle", ""))
        terminal = bool((self.spec.get("process") or {}).get("terminal"))
        self.console = options.get("console-socket", "")
        console.check(terminal, self.console, detached)
        if not self.spec.get("process"):
            raise UsageError("process: missing, and a container needs one to be started")
        for warning in validate.warnings(self.spec):
            program.warn(warning)
        self.record = program.store().reserve(container_id)
        self.created: Created | None = None

    def make(self) -> Created:
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
                place=self._placing(group) if group.needs_pid else None, cache_dir=common.cache_directory(),
                die_with_parent=False, listener=listener.fileno(), no_pivot=bool(options.get("no-pivot")),
                new_keyring=not options.get("no-new-keyring"),
            )
            for warning in created.warnings:
                self.program.warn(warning)
            if self.console:
                console.send(self.console, created.master)
                os.close(created.master)
                created.master = -1
            self._record(created.pid)
            common.write_pid(options.get("pid-file", ""), created.pid)
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


def create(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Make a container; its init waits for start and is orphaned when this process ends."""
    _Creation(program, options, operands[0], detached=True).make()
    return 0


def run(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Create and start; wait for the end and delete, unless detached."""
    detached = bool(options.get("detach"))
    making = _Creation(program, options, operands[0], detached)
    created = making.make()
    record = program.store().locked(operands[0])
    notify = lifecycle.notify_of(record)
    relay = None
    try:
        if created.master >= 0:
            relay = console.Relay(created.master)
        if not detached:
            console.forward_signals(created.pidfd, relay)
        lifecycle.begin(record)
    except BaseException:
        if relay is not None:
            relay.close()
        lifecycle.destroy(program, record)
        raise
    record.release()
    if detached:
        if notify is not None:
            lifecycle.wait_ready(record, notify)
        return 0
    try:
        status = console.supervise(created.pid, created.pidfd, relay, notify)
    finally:
        if relay is not None:
            relay.close()
    if not options.get("keep"):
        lifecycle.destroy(program, program.store().locked(record.id))
    return status if status >= 0 else 128 - status



COMMANDS: dict[str, Callable[[Program, dict[str, Any], list[str]], int]] = {"create": create, "run": run}
