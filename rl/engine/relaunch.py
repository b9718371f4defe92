"""Starting a container again in the process that is its monitor: same pid, lock held, clients attached.

Called by helpers/rl-monitor, which `rl.monitor.restart` executes in its own place. What the last run left in this
process is put away, then the launch's steps are walked as for `rl start`; a launch that fails is handed back to the
lean monitor as a run that ended at once.
"""

from __future__ import annotations

import _socket
import os

from rl.config.jsonio import dumps
from rl.config.paths import Paths
from rl.engine import containers, events
from rl.engine.launch import STEPS, Launch
from rl.errors import RlError, to_wire
from rl.monitor import control, ending, handover
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rl.monitor.handover import Params


def main(params: Params) -> NoReturn:
    """Start the container and be its monitor."""
    try:
        try:
            work = _prepare(params)
        except BaseException as error:
            _failed(params, error)
        try:
            work.walk(STEPS)
            fresh = work.monitor_params()
        except BaseException as error:
            work.roll_back()
            _failed(params, error)
        work.tell_event("restart", "init", "start")
        for client in params["clients"]:
            client["queue"].append(control.started(fresh["pid"]))
        for key in ("clients", "backoff", "input_ended", "restart", "helper", "interpreter"):
            if key in params:
                fresh[key] = params[key]
        for fd in params.get("stdio_fds", []):
            os.close(fd)  # fresh ones are in their place
        handover.become_monitor(fresh)
    finally:
        os._exit(1)


def _prepare(params: Params) -> Launch:
    """Undo what the last run was, of this process; what the next one is made of."""
    own = [params["lock_fd"], params["listen_fd"], *(client["fd"] for client in params["clients"])]
    stdio = params.get("stdio_fds", [])
    handover.close_others([*own, *stdio])
    params["spare_fd"] = -1
    for fd in (*own, *stdio):
        os.set_inheritable(fd, False)
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write(params.get("oom_score_adj", "0"))
    for path, _ in reversed(ending.mounts_below(params["container_dir"])):
        ending.unmount(path)
    userns.stay_inside()
    paths = Paths(*params["launch"]["paths"])
    message = {**params["launch"]["message"], "preserve": []}  # what the caller opened went with the first run
    events.adopt(paths, message["events"])
    work = Launch(paths, params["id"], _nobody(), params["lock_fd"], userns.current_mode(), message)
    work.attach_fd = params["listen_fd"]
    work.restarts = params.get("restarts", 0)
    return work


def _nobody() -> _socket.socket:
    """In the place of the command line's socket: nobody listens to the launch's progress."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    theirs.close()
    return ours


def _failed(params: Params, error: BaseException) -> NoReturn:
    """Back to the lean monitor, which decides whether to try again."""
    wire = to_wire(error)
    state = params["state"]
    state["exit_code"] = error.exit_code if isinstance(error, RlError) else 125
    state["error"] = str(wire["message"])
    state["finished"] = containers.now()
    state["oom_killed"] = False
    params["pid"] = 0
    params["helpers"] = []
    packet = b"\6" + dumps({"error": wire}).encode()
    for client in params["clients"]:
        client["queue"].append(packet)
    handover.replace(params)
