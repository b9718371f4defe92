"""Layers from blobs: staged, verified, made durable by one syncfs(2), put in place by rename(2).

:class:`Unpacker` is what a pull uses: worker processes in the shared user namespace take layers from
one queue while the caller downloads others. :func:`unpack_layer` does one layer in this process.
A killed or failed unpack leaves nothing that looks like a layer (rl/storage/staging.py).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

from rl.config.jsonio import dumps, loads, write_json
from rl.errors import RlError, from_wire, to_wire
from rl.kernel import process
from rl.runtime import userns
from rl.storage.apply import MAX_ENTRIES
from rl.storage.extract import SINGLE, UnpackedLayer, extract
from rl.storage.layers import has, hex_of, info
from rl.storage.staging import Staging, make_durable, put, remove_stale
from rl.storage.trash import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import LayerInfo
    from rl.config.paths import Paths

    Progress = Callable[[str, int, int], None]  # diff id, bytes of the blob done, bytes of the blob


_UNREAD_PROGRESS = 16 << 10
_KILLED = "something killed them: is there enough memory?"


def _stage(
    blob: str, diff_id: str, id_key: str, staging: str, progress: Callable[[int, int], None] | None,
    max_entries: int, close_in_child: tuple[int, ...] = (),
) -> UnpackedLayer:
    """Unpack into ``staging/<hex>/fs…`` with its record beside it; not durable yet."""
    staged = f"{staging}/{hex_of(diff_id)}"
    remove_tree(staged)
    os.mkdir(staged, 0o700)
    try:
        name = "fs" + (f".{id_key}" if id_key else "")
        layer = extract(blob, diff_id, f"{staged}/{name}", progress, max_entries, close_in_child)
        write_json(f"{staged}/layer.json", layer, sync=False)
    except BaseException as error:
        remove_tree(staged)
        if isinstance(error, OSError):
            raise RlError(f"unpack layer {diff_id[:19]}: {error.strerror} ({error.filename})") from None
        raise
    return layer


def effective_key(id_key: str) -> str:
    """Inside the user namespace: "" means "single" where only one id is mapped."""
    return id_key or (SINGLE if userns.current_mode() == SINGLE else "")


def unpack_layer(
    paths: Paths, blob_path: str, diff_id: str, media_type: str = "", *, id_key: str = "",
    max_entries: int = MAX_ENTRIES,
) -> LayerInfo:
    """Unpack one layer in this process, which is inside the user namespace; a layer that exists costs nothing.

    *media_type* is for messages only: compression is told by content. Raises VerificationError, RlError.
    """
    id_key = effective_key(id_key)
    if has(paths, diff_id, id_key):
        return _existing(paths, diff_id)
    remove_stale(paths)
    staging = Staging(paths)
    try:
        layer = _stage(blob_path, diff_id, id_key, staging.path, None, max_entries)
        make_durable(paths)
        put(paths, f"{staging.path}/{hex_of(diff_id)}", layer, diff_id, id_key)
    finally:
        staging.close()
    return layer


def _existing(paths: Paths, diff_id: str) -> LayerInfo:
    return info(paths, diff_id)


# --------------------------------------------------------------------------- workers


class Unpacker:
    """Worker processes that unpack layers side by side. A context manager::

        with Unpacker(paths) as unpacker:        # before any thread exists
            unpacker.submit(blob, diff_id)       # from any thread, as downloads finish
            layers = unpacker.results()          # waits, raises the first error

    Layers that exist already are skipped. All layers become durable by one syncfs and appear in
    :meth:`results`; leaving the context without it discards them. *on_progress* is called from
    :meth:`results` and :meth:`pump` with (diff id, bytes of the blob read, bytes of the blob).
    """

    def __init__(
        self, paths: Paths, id_key: str = "", workers: int = 2, on_progress: Progress | None = None,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._paths = paths
        self._id_key = id_key
        self._count = max(1, workers)
        self._on_progress = on_progress
        self._max_entries = max_entries
        self._workers: dict[int, int] = {}  # report fd: pid
        self._buffers: dict[int, bytes] = {}
        self._busy: dict[int, str] = {}  # report fd: diff id
        self._submitted: list[str] = []
        self._ready: dict[str, tuple[str, UnpackedLayer, str]] = {}  # staged directory, record, id key
        self._done: dict[str, LayerInfo] = {}
        self._error: RlError | None = None
        self._tasks: _socket.socket | None = None

    def __enter__(self) -> Unpacker:
        import _socket

        receiver, self._tasks = _map_sockets(_socket)
        for index in range(self._count):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                os.close(read_end)
                self._tasks.close()
                for other in self._workers:
                    os.close(other)
                _worker(self._paths, self._id_key, self._max_entries, receiver, write_end, parent, index == 0)
            os.close(write_end)
            self._workers[read_end] = pid
            self._buffers[read_end] = b""
        receiver.close()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._tasks is not None:
            self._tasks.close()  # the workers clean up and end, unless they are busy with what nobody wants
            self._tasks = None
        for fd, pid in self._workers.items():
            if fd in self._busy:
                os.kill(pid, 15)
        for fd, pid in self._workers.items():
            os.close(fd)
            os.waitpid(pid, 0)
        self._workers.clear()

    def submit(self, blob_path: str, diff_id: str, media_type: str = "") -> None:
        """Queue a layer; a second submission of the same one is ignored. Raises RlError when no worker lives."""
        hex_of(diff_id)
        if diff_id in self._submitted:
            return
        if self._tasks is None:
            raise RlError("unpack a layer: the unpacker is closed")
        self._submitted.append(diff_id)
        try:
            self._tasks.send(dumps({"blob": os.path.abspath(blob_path), "diff_id": diff_id}).encode())
        except (BrokenPipeError, ConnectionResetError):
            self.pump(0)
            raise self._error or RlError("unpack a layer: the unpacking processes have ended") from None

    def pump(self, timeout: float | None = 0.0) -> None:
        """Take in what the workers report, waiting *timeout* seconds for the first (None: as long as it takes)."""
        poll = select.poll()
        for fd in self._workers:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(None if timeout is None else int(timeout * 1000)):
            data = os.read(fd, 1 << 16)
            if not data:
                self._ended(fd)
                continue
            *lines, self._buffers[fd] = (self._buffers[fd] + data).split(b"\n")
            for line in lines:
                self._report(fd, loads(line.decode()))

    def results(self) -> list[LayerInfo]:
        """Every submitted layer, in order of submission, in place and durable. Raises the first error.

        Layers that are good are kept even so: the next pull needs only the bad one.
        """
        while self._workers and any(d not in self._ready and d not in self._done for d in self._submitted):
            self.pump(None)
            if self._error and not self._busy:
                break
        if self._ready:
            make_durable(self._paths)
            for diff_id, (staged, layer, id_key) in self._ready.items():
                put(self._paths, staged, layer, diff_id, id_key)
                self._done[diff_id] = layer
            self._ready.clear()
        if self._error:
            raise self._error
        missing = [d for d in self._submitted if d not in self._done]
        if missing:
            raise RlError(f"unpack layer {missing[0][:19]}: the unpacking processes have ended", _KILLED)
        return [self._done[d] for d in self._submitted]

    def _report(self, fd: int, report: dict[str, Any]) -> None:
        diff_id = report.get("diff_id", "")
        if "progress" in report:
            if self._on_progress:
                self._on_progress(diff_id, *report["progress"])
            return
        if "taken" in report:
            self._busy[fd] = diff_id
            return
        self._busy.pop(fd, None)
        if "error" in report:
            self._error = self._error or from_wire(report["error"])
        elif report["staged"]:
            self._ready[diff_id] = (report["staged"], report["layer"], report["id_key"])
        else:
            self._done[diff_id] = report["layer"]

    def _ended(self, fd: int) -> None:
        """A worker died: its task is lost, whatever it had staged too."""
        pid = self._workers.pop(fd)
        os.close(fd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        diff_id = self._busy.pop(fd, "")
        if not self._error and (diff_id or status):
            what = f"unpack layer {diff_id[:19]}" if diff_id else "unpack layers"
            self._error = RlError(f"{what}: the unpacking process ended with status {status}", _KILLED)


def _map_sockets(module: Any) -> tuple[_socket.socket, _socket.socket]:
    """(receiving end that the workers share, sending end): each message goes to one worker that is idle."""
    pair: tuple[_socket.socket, _socket.socket] = module.socketpair(
        module.AF_UNIX, module.SOCK_SEQPACKET | module.SOCK_CLOEXEC
    )
    return pair


def _worker(
    paths: Paths, id_key: str, max_entries: int, tasks: _socket.socket, reports: int, parent: int, clean: bool
) -> None:
    """The life of a worker: one staging directory, one task after the other. Never returns."""
    import signal

    staging: Staging | None = None
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides, and tells us
        signal.signal(signal.SIGTERM, _terminate)
        try:
            userns.enter(paths.run)
            # After enter: a change of credentials forgets the death signal.
            process.prctl(process.PR_SET_PDEATHSIG, 15)
            if os.getppid() != parent:
                os._exit(1)
            id_key = effective_key(id_key)
            if clean:
                remove_stale(paths)
            staging = Staging(paths)
            while message := tasks.recv(1 << 16):
                _one_task(paths, loads(message.decode()), id_key, max_entries, staging, reports, tasks.fileno())
        except Exception as error:
            _send(reports, {"error": to_wire(error)})
        except KeyboardInterrupt:
            pass  # told to end
        finally:
            if staging:
                staging.close()
    finally:
        os._exit(0)


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _one_task(
    paths: Paths, task: dict[str, str], id_key: str, max_entries: int, staging: Staging, reports: int, tasks: int
) -> None:
    diff_id = task["diff_id"]
    _send(reports, {"taken": True, "diff_id": diff_id})
    answer: dict[str, Any]
    try:
        if has(paths, diff_id, id_key):
            answer = {"staged": "", "layer": info(paths, diff_id)}
        else:
            layer = _stage(
                task["blob"], diff_id, id_key, staging.path,
                lambda done, total: _send(reports, {"diff_id": diff_id, "progress": [done, total]}, wait=False),
                max_entries, (reports, tasks),
            )
            answer = {"staged": f"{staging.path}/{hex_of(diff_id)}", "layer": layer, "id_key": id_key}
    except Exception as error:
        answer = {"error": to_wire(error)}
    _send(reports, {"diff_id": diff_id, **answer})


def _send(fd: int, report: dict[str, Any], wait: bool = True) -> None:
    """One line to the parent; progress that nobody reads is dropped, so that results never wait behind it."""
    data = dumps(report).encode() + b"\n"
    if not wait and struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0] > _UNREAD_PROGRESS:
        return
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        raise KeyboardInterrupt from None  # the parent is gone
