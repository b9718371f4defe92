"""What stays of a detached exec session: one small process that waits for its command.

Called by `helpers/rl-monitor`, in a lean interpreter, with what `rl.engine.exec_detached` has marshalled; it imports
nothing but C modules until the command has ended.
"""

from __future__ import annotations

import posix
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypedDict

    from rl.config.model import EventLog

    class Params(TypedDict, total=False):
        """A session; descriptors are -1 where there is none."""

        id: str  # the container's
        name: str
        session: str
        file: str  # its record, "" without one
        child: int  # the command's pid if it is our child; else its status is not ours to take
        pidfd: int
        master: int  # of its terminal, which is kept open and empty
        events: EventLog
        image: str
        labels: dict[str, str]
        package_root: str


def main(params: Params) -> NoReturn:
    """Wait until the command has ended, take it off record, tell the log of events."""
    try:
        try:
            fd = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
            posix.write(fd, b"rl-exec")
            posix.close(fd)
        except OSError:
            pass  # a name in `ps`, no more
        _wait(params)
        code = posix.waitstatus_to_exitcode(posix.waitpid(params["child"], 0)[1]) if params["child"] else 0
        if params["file"]:
            from rl.runtime import sessions

            sessions.remove(params["file"])
        if "events" in params:
            _tell(params, code if code >= 0 else 128 - code)
    finally:
        posix._exit(0)


def _wait(params: Params) -> None:
    """Until the command has ended, dropping what it writes to its terminal."""
    poll = select.poll()
    poll.register(params["pidfd"], select.POLLIN)
    master = params["master"]
    if master >= 0:
        posix.set_blocking(master, False)
        poll.register(master, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == params["pidfd"]:
                return
            try:
                posix.read(master, 65536)
            except BlockingIOError:
                continue
            except OSError:  # EIO: nobody has the terminal open any more
                poll.unregister(master)


def _tell(params: Params, code: int) -> None:
    from rl.monitor import eventlog

    more = {"image": params["image"], "execID": params["session"]}
    if params["child"]:
        more["containerExitCode"] = str(code)
    found = eventlog.event("container", "exec_died", params["id"], params["name"], more, params["labels"])
    eventlog.write(params["events"], [found])
