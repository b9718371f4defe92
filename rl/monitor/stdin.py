"""The container's input: what clients send is written as the container takes it, and no further read until it has.

Called by `rl.monitor.loop`. A pipe, or the master of the container's terminal.
"""

from __future__ import annotations

import posix
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.clients import Client
    from rl.monitor.loop import Monitor


class Stdin:
    """``fd`` is -1 when there is none, or no more; ``queue`` what the container has not taken yet."""

    __slots__ = ("_monitor", "fd", "queue")

    def __init__(self, monitor: Monitor, queue: list[bytes]) -> None:
        params = monitor.params
        self._monitor = monitor
        self.queue = queue
        self.fd = params["master_fd"] if params["terminal"] else params["stdin_fd"]
        if self.fd >= 0:
            posix.set_blocking(self.fd, False)

    def take(self, client: Client, data: bytes) -> None:
        """Input from *client*; an empty chunk is its end."""
        if not client.stdin:
            return
        if not data and not self._monitor.params["terminal"]:
            self._monitor.params["input_ended"] = True
        if self.fd < 0:
            return
        self.queue.append(data)
        if len(self.queue) == 1:
            self.write()
        if self.queue:  # not taken at once: this client waits
            self._monitor.hold_client(client)

    def end(self) -> None:
        """There will be no more input."""
        if self.fd >= 0:
            self.queue.append(b"")
            if len(self.queue) == 1:
                self.write()

    def write(self) -> None:
        """Write what the container takes."""
        while self.queue:
            data = self.queue[0]
            if not data:
                if self._finish():
                    return
                self.queue.pop(0)
                continue
            try:
                size = posix.write(self.fd, data)
            except BlockingIOError:
                self.watch(True)
                return
            except OSError:  # EPIPE: it closed its stdin
                self._close()
                return
            if size < len(data):
                self.queue[0] = data[size:]
            else:
                self.queue.pop(0)
        self.watch(False)
        self._monitor.resume_clients()

    def watch(self, waiting: bool) -> None:
        """Be told when the container takes more, or no longer."""
        if self._monitor.params["terminal"]:  # the same descriptor is read
            self._monitor.watch_terminal(self.fd, self.write if waiting else None)
        elif waiting:
            self._monitor.watch(self.fd, select.POLLOUT, lambda _events: self.write())
        else:
            self._monitor.forget(self.fd)

    def _finish(self) -> bool:
        """End the container's input: close its pipe (True), or type the terminal's end-of-file character."""
        if not self._monitor.params["terminal"]:
            self._close()
            return True
        from rl.monitor import peer

        peer.type_end_of_file(self.fd)
        return False

    def _close(self) -> None:
        self.queue.clear()
        if not self._monitor.params["terminal"]:
            self._monitor.forget(self.fd)
            posix.close(self.fd)
            self._monitor.params["stdin_fd"] = -1
        self.fd = -1
        self._monitor.resume_clients()
