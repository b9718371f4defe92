"""`rl pause` and `rl unpause`: the cgroup's freezer, and the record that says so, both by the one who owns the record.

Called by `rl.monitor.control`, so imported only then. Source: kernel Documentation/admin-guide/cgroup-v2.rst,
"cgroup.freeze". The kernel freezes in the background: whoever asked watches cgroup.events.
"""

from __future__ import annotations

import posix

from rl.config.jsonio import dumps, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.clients import Client
    from rl.monitor.loop import Monitor


def set_frozen(monitor: Monitor, client: Client, frozen: bool) -> None:
    """Freeze or thaw the container and record it; the answer is packet 6: ``{"frozen": b}`` or ``{"error": …}``."""
    params = monitor.params
    status, wanted = ("paused", "running") if frozen else ("running", "paused")
    state = params["state"]
    try:
        if not params["pid"] or state["status"] not in (status, wanted):
            raise OSError(0, f"it is {state['status']}")
        _write(params["cgroup"], frozen)
        try:
            write_json(f"{params['container_dir']}/state.json", {**state, "status": status}, sync=False)
        except OSError:
            _write(params["cgroup"], not frozen)  # what no record tells must not be
            raise
        state["status"] = status
        answer = dumps({"frozen": frozen})
    except OSError as error:
        message = f"{'pause' if frozen else 'unpause'} container {params['id'][:12]}: {error.strerror}"
        answer = dumps({"error": {"class": "StateError", "message": message, "hint": ""}})
    monitor.send(client, b"\6" + answer.encode())


def _write(cgroup: str, frozen: bool) -> None:
    fd = posix.open(f"{cgroup}/cgroup.freeze", posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(fd, b"1" if frozen else b"0")
    finally:
        posix.close(fd)
