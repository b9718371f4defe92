"""A container that `rl init` has made: its monitor waits until somebody says start, with the launch's last step to do.

Called by rl.engine.launch, in whose process it all stays: a container is not in this state for long.
"""

from __future__ import annotations

import os
import time

from rl.config.jsonio import dumps
from rl.engine import containers, prefork
from rl.errors import to_wire
from rl.monitor import control, handover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.launch import Launch, Steps
    from rl.monitor.clients import Client
    from rl.monitor.loop import Monitor


def wait_for_start(work: Launch, rest: Steps) -> None:
    """Record it and be its monitor; *rest* of the steps is done when a client asks for it."""
    before = containers.read_state(work.paths, work.id)
    work.state = work.state_as("initialized")
    containers.write_state(work.paths, work.id, work.state)
    work.undo.append(lambda: containers.write_state(work.paths, work.id, before))
    params = work.monitor_params()
    waiting = getattr(work.created, "sock", None)  # the process waits at its other end
    if waiting is not None:
        params["keep_fds"].append(waiting.fileno())
    work.tell_ready()
    work.sock.close()
    handover.become_monitor(params, lambda monitor, client: _begin(work, rest, monitor, client))


def _begin(work: Launch, rest: Steps, monitor: Monitor, client: Client) -> None:
    """Run, and be the monitor as after any start; or be as if `rl init` had not been."""
    try:
        work.walk(rest)
    except BaseException as error:
        packet = b"\6" + dumps({"error": to_wire(error)}).encode()
        work.roll_back()
        prefork.forget_run_directory(work.paths, work.id)
        for other in monitor.clients:
            other.send(packet)
        os._exit(1)
    work.tell_event("start")
    fresh = work.monitor_params()
    for key in ("state", "started", "keep_fds", "health"):
        monitor.params[key] = fresh[key]
    monitor.until = time.monotonic() + handover.LINGER
    monitor.limit_time(fresh["deadline"])
    monitor.check_health()
    monitor.started()
    monitor.send(client, control.started(fresh["pid"]))
