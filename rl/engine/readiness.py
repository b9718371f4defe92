"""--sdnotify: what the NOTIFY_SOCKET of the command line is for. Imported only where there is one.

Called by run and start (:func:`announce`) and by the launch, in the same environment (:func:`prepare`); from there on
`rl.monitor.notify` speaks.
"""

from __future__ import annotations

import os

from rl.monitor import notify
from rl.runtime import activation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig


def _mode(config: ContainerConfig) -> str:
    return str(config["options"].get("sdnotify", "container"))


def announce(config: ContainerConfig, monitor: int) -> None:
    """Where systemd waits to hear from us: its main process will be the container's *monitor*.

    Said before that is so: a manager that listens to the main process alone would not believe the monitor's READY=1.
    """
    if _mode(config) != "ignore":
        notify.send(os.environ["NOTIFY_SOCKET"], b"MAINPID=%d" % monitor)


def prepare(config: ContainerConfig, spec: dict[str, Any], directory: str) -> dict[str, Any]:
    """What the monitor has to know (params["notify"]), {} for nothing; *spec* gets the container's own socket.

    The socket is made in the container's *directory*.
    """
    mode = _mode(config)
    if mode == "ignore":
        return {}
    offered = {"NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"]}
    fd = -1
    if mode == "container":
        activation.adapt(spec, offered, directory)
        made = activation.Notify.of(directory, offered)
        assert made is not None
        fd = made.sock.detach()
    return {"mode": mode, "address": offered["NOTIFY_SOCKET"], "fd": fd}
