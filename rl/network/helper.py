"""Starting a network program so that it dies with the monitor, and telling what it complained about.

Called by pasta.py and slirp4netns.py.
"""

from __future__ import annotations

import os

from rl.errors import RlError
from rl.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_SIGPIPE, _SIGXFSZ, _SIGKILL = 13, 25, 9


class Helper:
    """A child process with its output on pipes. ``stdout`` is the read end, -1 once closed."""

    __slots__ = ("name", "pid", "pidfd", "stderr", "stdout")

    def __init__(self, argv: Sequence[str], directory: str, prepare: Callable[[], list[str]] | None = None) -> None:
        """Start *argv* (absolute program) in *directory*. It gets SIGKILL when the monitor dies.

        *prepare* runs in the child first; what it returns are further arguments, and descriptors it made
        inheritable stay open.
        """
        self.name = os.path.basename(argv[0])
        self.stdout, out = os.pipe2(os.O_CLOEXEC)
        self.stderr, err = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError as error:
            for fd in (self.stdout, self.stderr, out, err):
                os.close(fd)
            raise RlError(f"start {self.name}: {error.strerror}") from None
        if self.pid == 0:
            _become(argv, directory, parent, out, err, prepare)
        os.close(out)
        os.close(err)
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self, timeout_ms: int) -> bytes:
        """The first bytes on stdout; b"" when the program ended, closed it or took longer than *timeout_ms*."""
        import select

        poll = select.poll()
        poll.register(self.stdout, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        for fd, _ in poll.poll(timeout_ms):
            if fd == self.stdout:
                return os.read(fd, 256)
        return b""

    def read_all(self, timeout_ms: int) -> str:
        """Everything the program writes on both streams until it ends, or until *timeout_ms* have passed."""
        import select
        import time

        deadline = time.monotonic() + timeout_ms / 1000
        poll = select.poll()
        for fd in (self.stdout, self.stderr):
            poll.register(fd, select.POLLIN)
        streams, text = 2, b""
        while streams and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                chunk = os.read(fd, 1 << 16)
                text += chunk
                if not chunk:
                    poll.unregister(fd)
                    streams -= 1
        return text.decode(errors="replace")

    def complaints(self) -> str:
        """What the program wrote on stderr so far, on one line, without syslog chatter and usage."""
        os.set_blocking(self.stderr, False)
        try:
            text = os.read(self.stderr, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            text = ""
        lines = []
        for line in text.splitlines():
            stamp, _, rest = line.partition(": ")
            line = (rest if stamp.replace(".", "").isdigit() else line).strip()
            if line.startswith("Usage:"):
                break  # the whole help follows
            if line and not line.startswith("Failed to send ") and line not in lines:
                lines.append(line)
        return "; ".join(lines)

    def kill(self) -> None:
        """End it now and reap it; harmless when it has ended."""
        try:
            process.pidfd_send_signal(self.pidfd, _SIGKILL)
        except OSError:
            pass
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        self.release()

    def release(self) -> None:
        """Close our descriptors; the program goes on."""
        for name in ("stdout", "stderr", "pidfd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def _become(
    argv: Sequence[str], directory: str, parent: int, out: int, err: int, prepare: Callable[[], list[str]] | None
) -> None:
    import _signal

    try:
        process.prctl(process.PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        # Python ignores SIGPIPE, exec keeps that, and pasta takes an ignored SIGPIPE for an error of signal(2).
        _signal.signal(_SIGPIPE, _signal.SIG_DFL)
        _signal.signal(_SIGXFSZ, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        process.close_range(3, flags=4)  # CLOSE_RANGE_CLOEXEC: nothing of the monitor's leaks into the program
        os.chdir(directory)
        more = prepare() if prepare is not None else []
        os.execve(argv[0], [*argv, *more], _environment())
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _environment() -> dict[str, str]:
    """Without LD_PRELOAD and the like, which are meant for the caller's own programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LD_")}


class Pending:
    """A network that is being set up while the monitor goes on; :meth:`ready` waits for the rest.

    ``expected`` is what :meth:`ready` will most likely say, known at once: the container is made with it
    while the program starts, and corrected in the rare case that another rung had to be taken.
    """

    __slots__ = ("_cancel", "_finish", "_result", "expected")

    def __init__(
        self,
        result: dict[str, Any] | None = None,
        finish: Callable[[], dict[str, Any]] | None = None,
        cancel: Callable[[], None] | None = None,
        expected: dict[str, Any] | None = None,
    ) -> None:
        self._result = result
        self.expected: dict[str, Any] = result or expected or {}
        self._finish = finish
        self._cancel = cancel

    def ready(self) -> dict[str, Any]:
        """What was set up (see setup.start). Raises RlError; nothing is left running then."""
        if self._result is None:
            assert self._finish is not None
            self._result = self._finish()
        return self._result

    def cancel(self) -> None:
        """Give up before :meth:`ready`: end what was started."""
        if self._result is None and self._cancel is not None:
            self._cancel()
