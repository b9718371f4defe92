"""The lean interpreter's entry, called by helpers/rl-monitor; see `rl.monitor.handover`."""

from __future__ import annotations

import posix

from rl.monitor.loop import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rl.monitor.handover import Params


def main(params: Params) -> NoReturn:
    """Go on where the process before stopped, until the container has ended for good and is cleaned up."""
    code = 1
    try:
        try:
            fd = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
            posix.write(fd, b"rl-monitor")
            posix.close(fd)
        except OSError:
            pass  # a name in `ps`, no more
        for name in posix.listdir("/proc/self/fd"):
            if int(name) > 2:
                try:
                    posix.set_inheritable(int(name), False)
                except OSError:
                    pass  # the directory's own
        monitor = Monitor(params)
        monitor.lean = True
        if "answer" in params:
            from rl.monitor import upgrade

            upgrade.answer(monitor)
        _supervise(monitor)
        code = params["state"]["exit_code"] & 0xFF  # as conmon: systemd sees how its service ended
    finally:
        posix._exit(code)


def _supervise(monitor: Monitor) -> None:
    params = monitor.params
    if params["pid"]:
        monitor.run()
        if monitor.code_has_changed():
            monitor.renew()
    from rl.monitor.ending import Ending, finish

    if "restart_at" in params:  # it has ended, and waits to be started again
        from rl.monitor import restart

        restart.wait(monitor)
        finish(monitor, Ending.record)
    elif not params["pid"]:  # the attempt to start it again has failed
        monitor.ended, monitor.status = True, params["state"]["exit_code"]
        finish(monitor)
    else:
        finish(monitor)
