"""The monitor's loop: the container's parent for as long as it runs.

Runs in the process that `rl.monitor.handover` replaced itself by (helpers/rl-monitor), and for the first second of a
container's life in that process before. It relays the container's output to its log and to attached clients,
their input to the container, and ends with the exit duties of `rl.monitor.ending`.

Every container keeps one of these in memory, so it imports nothing but C modules (not even ``os``,
which costs 280 kB) and `rl.monitor.{clients,logs,stdin}`; what is needed once is imported where it is needed.

Who may slow down whom:

- Nothing here ever waits for a client, a full disk or the container: every descriptor is non-blocking.
- The log gets each chunk first, as soon as it is read.
- The *first* client (the `rl run` or `rl start -a` that started the container) is what a pipe would be: while its
  queue is not empty the container's output is not read, so `rl run … | slow` loses nothing and uses no memory.
- Any *other* client has a bounded queue; one that does not keep up is disconnected, for neither the
  container nor its log nor other clients may suffer from a forgotten `rl attach`.
- Input is relayed one packet at a time; a client is not read while the container does not take its input.

Signals to the monitor itself: SIGTERM and SIGINT stop the container in its own manner (stop signal, timeout, SIGKILL),
after which the monitor ends as always; so does SIGURG, which is what `systemctl stop` of the container's scope sends to
every process in it (rl.runtime.cgroup.systemd). SIGHUP and SIGPIPE are ignored.
"""

from __future__ import annotations

import _signal
import _socket
import posix
import select
import time

from rl.monitor.clients import Client
from rl.monitor.logs import open_log
from rl.monitor.stdin import Stdin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from rl.monitor.handover import Params
    from rl.monitor.health import Checks

#: Of the state that one interpreter leaves to the next (:meth:`Monitor.export`). A newer rl reads an older one's: keys
#: are only ever added, and who reads a key that is not in version 1 has a default for it.
VERSION = 1

CHUNK = 32768  # the largest payload of a packet
#: After the container's end this much is still read from a pipe that somebody else keeps open and
#: keeps writing to: what was written before the end is never more (/proc/sys/fs/pipe-max-size).
DRAIN = 1 << 20

STOPPING = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGURG)
_KILL = "kill"  # the timer of what did not obey the stop signal
IN, OUT, GONE = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR | select.POLLNVAL


class Monitor:
    """One container's streams, clients and process."""

    __slots__ = (
        "_buffer", "_handlers", "_held", "_listener", "_poll", "_reopened", "_signal_fd", "_stamp", "_streams",
        "_timers", "_view", "begin", "checks", "clients", "ended", "lean", "log", "params", "status", "stdin", "until",
    )

    def __init__(self, params: Params) -> None:
        self.params = params
        self._stamp = self._code_on_disk()
        self.ended = "status" in params
        self.status = params.pop("status", 0)  # exit code of the container's init, once it has ended
        self.clients: list[Client] = []
        self.begin: Callable[[Client], object] | None = None  # let an initialized container's command run
        self.checks: Checks | None = None
        self.until = 0.0  # when run() is to return, time.monotonic(); 0: not before the container's end
        self.lean = False  # in the interpreter that helpers/rl-monitor is for
        self.log = open_log(params["log"]) if params["pid"] else None  # 0: it waits to be started again
        if self.log and "log_carry" in params:
            self.log.take(params["log_carry"])
            self.log.lost = params.get("log_lost", 0)
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._buffer = bytearray(CHUNK + 1)
        self._view = memoryview(self._buffer)
        self._streams: dict[int, int] = {}  # descriptor: 1 stdout, 2 stderr
        self._held = False  # the first client is behind: the streams are not read
        self._timers: dict[str, tuple[float, Callable[[], object]]] = {}
        self._reopened = 0
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, params["listen_fd"])
        self._signal_fd = self._catch_signals()
        self.watch(params["listen_fd"], IN, self._on_connection)
        for key, kind in (("stdout_fd", 1), ("stderr_fd", 2), ("master_fd", 1)):
            fd: int = params[key]  # type: ignore[literal-required]
            if fd >= 0:
                posix.set_blocking(fd, False)
                self._streams[fd] = kind
                self.watch(fd, IN, self._reader(fd, kind))
        self.stdin = Stdin(self, params.pop("input", []))
        notified: int = params.get("notify", {}).get("fd", -1)
        if notified >= 0:
            self.watch(notified, IN, self._on_notification)
        for exported in params["clients"]:
            self._add_client(Client(**exported))
        self._hold()
        if params["pid"]:
            self.limit_time(params.get("deadline", 0.0))
            self.check_health()
        if "kill_at" in params:
            self.at(_KILL, params.pop("kill_at") - time.monotonic(), lambda: self.kill(9))
        for fd, packet in params.pop("packets", []):
            for client in self.clients:
                if client.fd == fd:
                    self._dispatch(client, packet)
        if self.stdin.queue:
            self.stdin.write()
        elif params.get("input_ended"):
            self.stdin.end()

    # the loop -----------------------------------------------------------------------------------
    def run(self) -> bool:
        """Work until the container has ended (True), or until *until* and nothing is half done (False)."""
        self._reap()
        while not self.ended:
            if self.until and time.monotonic() >= self.until and not self._half_done():
                return False
            self._run_timers()
            if self.ended:
                break
            self._turn(self._wait())
        return True

    def _turn(self, milliseconds: float | None) -> int:
        """Wait for something and deal with it; how much it was."""
        found = self._poll.poll(milliseconds)
        for fd, events in found:
            handler = self._handlers.get(fd)
            if handler:
                handler(events)
        return len(found)

    def hear(self) -> None:
        """Deal with what has been said until now; who signals the container tells us first (rl.monitor.control)."""
        for _ in range(1000):
            if not self._turn(0):
                break

    def _half_done(self) -> bool:
        return bool(self.stdin.queue or _KILL in self._timers or any(client.queue for client in self.clients))

    # timers -------------------------------------------------------------------------------------
    def at(self, key: str, seconds: float, callback: Callable[[], object]) -> None:
        """Call *callback* once, *seconds* from now, in the loop; an earlier timer of that *key* is replaced.

        Timers are this process's: who needs one after :meth:`export` sets it again.
        """
        self._timers[key] = (time.monotonic() + seconds, callback)

    def cancel(self, key: str) -> None:
        """Forget the timer *key*, if there is one."""
        self._timers.pop(key, None)

    def _run_timers(self) -> None:
        now = time.monotonic()
        for key, (when, callback) in tuple(self._timers.items()):
            if now >= when and self._timers.get(key) == (when, callback):
                del self._timers[key]
                callback()

    def _wait(self) -> float | None:
        """Milliseconds until something is due; None: nothing ever is."""
        until = self.until
        due = min((when for when, _ in self._timers.values()), default=0.0)
        soonest = min((when for when in (until, due) if when), default=0.0)
        if not soonest:
            return None
        # poll(2) takes whole milliseconds: rounded up, or it would spin. Past `until` a client's queue is waited for.
        return max(20.0 if soonest == until else 1.0, (soonest - time.monotonic()) * 1000 + 1)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call *handler* with what poll(2) says of *fd*."""
        self._poll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Watch *fd* no more."""
        if self._handlers.pop(fd, None):
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass  # a held stream

    # the container's process ----------------------------------------------------------------------
    def _catch_signals(self) -> int:
        """Signals become bytes in a pipe that poll watches."""
        reader, writer = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        for signal in (_signal.SIGCHLD, *STOPPING):
            _signal.signal(signal, _noted)
        for signal in (_signal.SIGHUP, _signal.SIGPIPE):
            _signal.signal(signal, _signal.SIG_IGN)
        _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.unblock_signals()
        self.watch(reader, IN, self._on_signal)
        return reader

    def unblock_signals(self) -> None:
        """Handover, or :meth:`export`, blocked them while there was nobody to catch them; the mask survives exec."""
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())

    def _on_signal(self, _events: int) -> None:
        try:
            numbers = frozenset(posix.read(self._signal_fd, 512))
        except BlockingIOError:
            return
        self._reap()
        if not numbers.isdisjoint(STOPPING):
            self.request_stop()

    def request_stop(self, restart: bool = False, timeout: float | None = None) -> None:
        """Stop the container as `rl stop` would: stop signal, SIGKILL after *timeout* (default its own) seconds.

        With *restart* it is started again then, whatever its restart policy; without, not even if that says so. A
        later request replaces an earlier one.
        """
        self.params["after"] = "restart" if restart else "stop"
        if not self.params["pid"]:
            self.ended = True  # between two runs: the wait is over
            return
        self._thaw()
        seconds = self.params["stop_timeout"] if timeout is None else timeout
        self.kill(self.params["stop_signal"] if seconds > 0 else 9)
        if _KILL not in self._timers or timeout is not None:
            self.at(_KILL, seconds, lambda: self.kill(9))

    def started(self) -> None:
        """The command runs since just now."""
        if "notify" in self.params:
            from rl.monitor import notify

            notify.started(self)

    def _on_notification(self, _events: int) -> None:
        from rl.monitor import notify

        notify.relay(self, self.params["notify"]["fd"])

    def limit_time(self, deadline: float) -> None:
        """Kill the container at *deadline* (time.monotonic()), unless that is 0."""
        self.params["deadline"] = deadline
        if deadline:
            self.at("timeout", deadline - time.monotonic(), self._time_out)

    def check_health(self) -> None:
        """Begin with the health checks, if the container has any, or go on with them."""
        if self.params.get("health"):
            from rl.monitor.health import Checks

            self.checks = Checks(self)

    def end_checks(self) -> None:
        """No more health checks, of this kind at least."""
        if self.checks is not None:
            self.checks.stop()
            self.checks = None

    def _time_out(self) -> None:
        """--timeout is over: killed, and the exit code says so, as conmon's does."""
        self.params["timed_out"] = True
        self._thaw()
        self.kill(9)

    def _thaw(self) -> None:
        """A paused container takes no signal but SIGKILL."""
        if self.params.get("cgroup"):
            try:
                fd = posix.open(f"{self.params['cgroup']}/cgroup.freeze", posix.O_WRONLY | posix.O_CLOEXEC)
                posix.write(fd, b"0")
                posix.close(fd)
            except OSError:
                pass

    def _reap(self) -> None:
        """Take the status of every child that ended; orphans of the container come to us too (subreaper)."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                pid = 0
                if not self.ended and self.params["pid"] and not self._init_exists():
                    self.ended, self.status = True, 255  # someone else took the status: never wait forever
            if not pid:
                return
            if pid == self.params["pid"]:
                self.ended = True
                code = posix.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
                if self.params.get("timed_out") and self.status == 137:
                    self.status = -1

    def _init_exists(self) -> bool:
        try:
            posix.kill(self.params["pid"], 0)
        except OSError:
            return False
        return True

    def kill(self, signal: int) -> None:
        """Signal the container's init; it is our child and not reaped yet, so the pid is its own."""
        if not self.ended and self.params["pid"]:
            try:
                posix.kill(self.params["pid"], signal)
            except OSError:
                pass

    # output ---------------------------------------------------------------------------------------
    def _reader(self, fd: int, kind: int) -> Callable[[int], None]:
        def on_output(_events: int) -> None:
            if self._relay(fd, kind) == 0:
                self._close_stream(fd)

        return on_output

    def _relay(self, fd: int, kind: int) -> int:
        """Pass one read on; the number of bytes, 0 at the end, -1 when there is nothing now."""
        try:
            size = posix.readv(fd, [self._view[1:]])
        except BlockingIOError:
            return -1
        except OSError:  # EIO: a terminal nobody has open
            return -1 if not self.ended and self._reopen_terminal(fd) else 0
        if size:
            self._buffer[0] = kind
            if self.log:
                self.log.write(kind, bytes(self._view[1 : size + 1]))
            for client in tuple(self.clients):
                if client.stdout if kind == 1 else client.stderr:
                    self.send(client, self._view[: size + 1])
        return size

    def _reopen_terminal(self, fd: int) -> bool:
        """All of the container closed its terminal, or vhangup(2) did; an init system opens it again later."""
        self._reopened += 1
        if fd != self.params["master_fd"] or self._reopened > 1000:
            return False
        from rl.monitor import peer

        held = peer.open_terminal(fd)
        if held < 0:
            return False
        if self.params["slave_fd"] >= 0:
            posix.close(self.params["slave_fd"])
        self.params["slave_fd"] = held
        return True

    def _close_stream(self, fd: int) -> None:
        self.forget(fd)
        if self._streams.pop(fd, 0) and fd != self.params["master_fd"]:
            posix.close(fd)
            key: Literal["stdout_fd", "stderr_fd"] = "stdout_fd" if fd == self.params["stdout_fd"] else "stderr_fd"
            self.params[key] = -1

    def _hold(self) -> None:
        """Read the container's output only while the first client takes it."""
        held = any(client.first and client.queue for client in self.clients)
        if held != self._held:
            self._held = held
            for fd in self._streams:
                if held:
                    self._poll.unregister(fd)
                else:
                    self._poll.register(fd, IN)
            if not held and self.stdin.queue:
                self.stdin.watch(True)

    def drain(self) -> None:
        """What the container wrote before it ended; never waits."""
        self.end_checks()
        for fd, kind in tuple(self._streams.items()):
            left = DRAIN
            while left > 0 and (size := self._relay(fd, kind)) > 0:
                left -= size
            self.forget(fd)  # but open: who still writes, and is killed next, is not to see a broken pipe
        self._streams.clear()
        if self.log:
            self.log.close()

    # clients --------------------------------------------------------------------------------------
    def _on_connection(self, _events: int) -> None:
        for fd in self.accept():
            self._add_client(Client(fd))

    def accept(self) -> list[int]:
        """Every connection that waits."""
        found = []
        while True:
            try:
                found.append(self._listener._accept()[0])  # type: ignore[attr-defined]
            except OSError:
                return found

    def _add_client(self, client: Client) -> None:
        self.clients.append(client)
        self.watch(client.fd, client.events(), lambda events: self._on_client(client, events))

    def _on_client(self, client: Client, events: int) -> None:
        if events & OUT:
            self._flush(client)
        if events & IN and client.fd >= 0:
            self._on_packet(client)
        elif events & GONE:
            self.drop(client)

    def send(self, client: Client, packet: memoryview | bytes) -> None:
        """Give *packet* to the client without waiting; one that is too far behind is dropped."""
        if not client.send(packet):
            self.drop(client)
        elif client.queue:
            self._poll.modify(client.fd, client.events())
            if client.first:
                self._hold()

    def _flush(self, client: Client) -> None:
        if not client.flush():
            self.drop(client)
        elif not client.queue:
            self._poll.modify(client.fd, client.events())
            if client.first:
                self._hold()

    def drop(self, client: Client) -> None:
        """The client is gone, or has to go: it alone."""
        if client.fd < 0:
            return
        self.forget(client.fd)
        self.clients.remove(client)
        client.close()
        if client.first:
            self._hold()
            if client.stdin and not self.params["terminal"]:
                self.stdin.end()  # it was killed: the container sees the end of its input, as in a pipe

    def _on_packet(self, client: Client) -> None:
        packet = client.receive()
        if packet is None:
            return
        if not packet:
            self.drop(client)
            return
        self._dispatch(client, packet)

    def _dispatch(self, client: Client, packet: bytes) -> None:
        kind, payload = packet[0], packet[1:]
        if kind == 0:
            self.stdin.take(client, payload)
        elif kind == 3 and len(payload) == 4 and self.params["terminal"]:
            from rl.monitor import peer

            peer.resize(self.params["master_fd"], payload)
        elif kind == 5:
            client.hello(payload)
        elif kind == 7 and len(payload) == 1:
            self.kill(payload[0])
        elif kind == 8:
            if self.code_has_changed():
                self.params["packets"] = [(client.fd, packet)]
                self.renew()
                del self.params["packets"]  # it is obeyed here, and not once more by a later one
            from rl.monitor import control

            control.obey(self, client, payload)

    def watch_terminal(self, fd: int, write: Callable[[], None] | None) -> None:
        """The container's terminal *fd* is read; with *write* it is told as well when it can be written to."""
        if fd not in self._streams or self._held:
            return
        self._poll.modify(fd, IN | OUT if write else IN)
        read = self._reader(fd, 1)

        def on_terminal(events: int) -> None:
            if events & (IN | GONE):
                read(events)
            if events & OUT and write:
                write()

        self._handlers[fd] = on_terminal

    def hold_client(self, client: Client) -> None:
        """Do not read from *client* until :meth:`resume_clients`."""
        client.waits = True
        self._poll.modify(client.fd, client.events())

    def resume_clients(self) -> None:
        """The container has taken all its input."""
        for client in self.clients:
            if client.waits:
                client.waits = False
                self._poll.modify(client.fd, client.events())

    # replacing this process -----------------------------------------------------------------------
    def code_has_changed(self) -> bool:
        """Whether another rl was installed in our place: what we import from now on would be the new one's."""
        return self._code_on_disk() != self._stamp

    def _code_on_disk(self) -> tuple[int, int]:
        try:
            status = posix.stat(f"{self.params['package_root']}/rl/monitor/loop.py")
            return status.st_ino, status.st_mtime_ns
        except OSError:
            return 0, 0

    def renew(self) -> None:
        """Become the new rl that is on disk, which goes on from here; returns only when that cannot be done."""
        for _ in range(50):
            try:
                from rl.monitor import handover

                handover.replace(self.export())
            except ImportError:
                time.sleep(0.1)  # it is being installed this moment
            except Exception:
                break
        self.unblock_signals()
        self._stamp = self._code_on_disk()

    def export(self) -> Params:
        """What another interpreter needs to go on where :meth:`run` stopped."""
        params = self.params
        params["version"] = VERSION
        if self.ended and params["pid"]:
            params["status"] = self.status
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD, _signal.SIGHUP, *STOPPING))
        try:
            for number in set(posix.read(self._signal_fd, 512)).intersection(STOPPING):
                posix.kill(posix.getpid(), number)  # noticed, not yet acted upon: it waits for the new interpreter
        except BlockingIOError:
            pass
        params["clients"] = [client.export() for client in self.clients]
        params["input"] = self.stdin.queue
        params.pop("kill_at", None)  # of an export that did not come to anything
        if _KILL in self._timers:
            params["kill_at"] = self._timers[_KILL][0]
        if self.log:
            params["log_carry"] = self.log.carry()
            params["log_lost"] = self.log.lost
        return params


def _noted(_signal_number: int, _frame: object) -> None:
    """The wake-up pipe carries the signal's number."""
