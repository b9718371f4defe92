"""Handing a running container to a newly installed rl: `rl system upgrade-monitors`, seen by the monitor.

Called by `rl.monitor.control`. The monitor executes the new interpreter and program in its own place: same process,
same descriptors, same children. What can go wrong is looked at before, for after execve(2) there is no way back; where
that itself fails the old monitor goes on.
"""

from __future__ import annotations

import posix

from rl.config.jsonio import dumps
from rl.monitor.loop import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.monitor.clients import Client
    from rl.monitor.loop import Monitor

_REGULAR, _KIND, _BY_OTHERS = 0o100000, 0o170000, 0o022
_WISH = ("interpreter", "helper", "root")


def upgrade(monitor: Monitor, client: Client, wish: dict[str, Any]) -> None:
    """Become the *wish*ed rl: ``interpreter``, ``helper``, ``root`` (of its package) and ``version`` of the state."""
    why = _refusal(monitor, client, wish)
    if not why:
        params = monitor.params
        keys = ("interpreter", "helper", "package_root")
        before = {key: params.get(key, "") for key in keys}
        params["interpreter"], params["helper"], params["package_root"] = (wish[key] for key in _WISH)
        params["answer"] = client.fd
        from rl.monitor import handover

        why = handover.attempt(monitor)
        del params["answer"]
        params["interpreter"], params["helper"], params["package_root"] = (str(before[key]) for key in keys)
    wire = {"class": "RlError", "message": why, "hint": "its old monitor goes on"}
    monitor.send(client, _packet(error=wire))


def _refusal(monitor: Monitor, client: Client, wish: dict[str, Any]) -> str:
    if monitor.begin is not None:
        return "it is initialized and waits in the process that made it: start or stop it first"
    if client.uid() != posix.getuid():
        return "only its own user may do that"
    if int(wish["version"]) < VERSION:
        return f"that rl is older than this monitor: it reads states up to version {wish['version']}, not {VERSION}"
    for path in (wish["interpreter"], wish["helper"], f"{wish['root']}/rl/monitor/main.py"):
        problem = _problem(path)
        if problem:
            return problem
    return ""


def _problem(path: str) -> str:
    """Why this file must not be run in a monitor.

    That it belongs to root or to the user is looked at by who asks: from in here, root and strangers are the same.
    """
    try:
        status = posix.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not path.startswith("/") or status.st_mode & _KIND != _REGULAR:
        return f"{path}: not a file"
    if status.st_mode & _BY_OTHERS:
        return f"{path}: others than its owner may write to it"
    return ""


def answer(monitor: Monitor) -> None:
    """In the new interpreter: tell the client that asked."""
    fd = monitor.params.pop("answer")
    for client in tuple(monitor.clients):
        if client.fd == fd:
            monitor.send(client, _packet(upgraded=VERSION))


def _packet(**content: Any) -> bytes:
    return b"\6" + dumps(content).encode()

