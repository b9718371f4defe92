"""The lean interpreter's entry, called by helpers/rl-monitor; see `rl.monitor.handover`."""

from __future__ import annotations

import posix

from rl.monitor.loop import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rl.monitor.handover import Params


def main(params: Params) -> NoReturn:
    """Go on where the launching process stopped, until the container has ended and is cleaned up."""
    code = 1
    try:
        try:
            fd = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
            posix.write(fd, b"rl-monitor")
            posix.close(fd)
        except OSError:
            pass  # a name in `ps`, no more
        monitor = Monitor(params)
        monitor.run()
        from rl.monitor.ending import finish

        finish(monitor)
        code = 0
    finally:
        posix._exit(code)
