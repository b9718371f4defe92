"""Starting a container again when it has ended: by its restart policy, or because `rl restart` says so.

Called by `rl.monitor.ending` when the container's own resources are freed. The monitor is still its monitor: same
process, lock held, clients attached. It waits out the back-off as a loop without a container, then executes itself
(:func:`rl.monitor.handover.replace`) with all of the engine (`rl.engine.relaunch`), which walks the launch's steps
and becomes the monitor again. A launch that fails counts as a run that has failed.

Source: podman-run(1), ``--restart``; the back-off is Docker's.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.ending import Ending
    from rl.monitor.handover import Params
    from rl.monitor.loop import Monitor

#: Seconds before the first restart, doubled with each up to the longest; who has run STEADY seconds begins anew.
FIRST, LONGEST, STEADY = 0.1, 60.0, 10.0
#: A process that still has the whole engine in memory does not wait longer than this.
_SOON = 1.0


def wanted(params: Params, status: int) -> bool:
    """Whether the container is to run again after an end with exit code *status*."""
    after = params.get("after", "")
    if after:
        return after == "restart"
    policy = params.get("restart") or {"policy": "no", "retries": 0}
    if policy["policy"] in ("no", "never") or _ended_by_user(params, status):
        return False
    if policy["policy"] != "on-failure":
        return True
    return status != 0 and (not policy["retries"] or params.get("restarts", 0) < policy["retries"])


def _ended_by_user(params: Params, status: int) -> bool:
    if status - 128 in params.get("user_signals", []):
        params["stopped_by_user"] = True
    return params.get("stopped_by_user", False)


def backoff(last: float, ran: float) -> float:
    """Seconds to wait after a run of *ran* seconds, before which *last* seconds were waited (0: it was the first)."""
    return FIRST if ran >= STEADY else min(LONGEST, max(FIRST, 2 * last))


def again(ending: Ending) -> None:
    """Wait, and start it again. Returns only when it was stopped meanwhile, or cannot be started."""
    monitor, params = ending.monitor, ending.params
    if params.get("after"):
        params["backoff"] = seconds = 0.0
    else:
        seconds = backoff(params.get("backoff", 0.0), time.monotonic() - params.get("started", 0.0))
        params["backoff"] = seconds
    ending.record_restarting()
    params["restart_at"] = time.monotonic() + seconds
    wait(monitor)


def wait(monitor: Monitor) -> None:
    """Until it is time, or somebody stops or starts it; then as :func:`again`."""
    params = monitor.params
    _let_go(monitor)
    monitor.ended = False
    left = max(0.0, params["restart_at"] - time.monotonic())
    if params.get("after") != "restart":
        monitor.at("restart", left, lambda: setattr(monitor, "ended", True))
        monitor.until = 0.0
        if left > _SOON and not monitor.lean:
            _attempt(monitor)
        monitor.run()
    monitor.hear()
    if params.get("after") == "stop":
        return
    if not params.get("after"):
        params["restarts"] = params.get("restarts", 0) + 1
    params["after"] = ""
    del params["restart_at"]
    params["relaunch"] = True
    params["state"]["error"] = f"start it again: {_attempt(monitor)}"


def _attempt(monitor: Monitor) -> str:
    from rl.monitor import handover

    return handover.attempt(monitor)


def _let_go(monitor: Monitor) -> None:
    """What belonged to the container's last run, after which nothing must look for it."""
    import posix

    params = monitor.params
    monitor.log = None
    monitor.stdin.fd = -1
    monitor.cancel("kill")
    params["pid"] = 0
    params["stopped_by_user"], params["user_signals"] = False, []
    params.pop("log_carry", None)
    notified = params.get("notify", {}).get("fd", -1)
    if notified >= 0:
        monitor.forget(notified)
        params["notify"]["fd"] = -1
        params["keep_fds"].append(notified)
    for fd in params["keep_fds"]:
        posix.close(fd)
    params["keep_fds"] = []
    for key in ("pidfd", "master_fd", "slave_fd", "stdout_fd", "stderr_fd", "stdin_fd"):
        if params[key] >= 0:
            posix.close(params[key])
            params[key] = -1
