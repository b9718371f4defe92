"""--systemd: what a container needs whose command is systemd, or another init that expects a machine of its own.

podman-run(1), --systemd; https://systemd.io/CONTAINER_INTERFACE.
"""

from __future__ import annotations

from rl.engine.spec.values import boolean, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Commands that are taken for an init; beside these any program called ``systemd``.
INITS = ("/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init")
#: What it takes for the wish to halt in good order (systemd(1), "Signals").
STOP_SIGNAL = "RTMIN+3"


def wanted(options: Mapping[str, Any], command: Sequence[str]) -> bool:
    """Whether the container is one for systemd."""
    mode = options.get("systemd", "true")
    if options.get("shm_size_systemd"):
        size(options["shm_size_systemd"], "--shm-size-systemd")
    if mode == "always":
        return True
    if not boolean(mode, "--systemd"):
        return False
    return command[0] in INITS or command[0].rpartition("/")[2] == "systemd"


def tmpfs(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(directory, mount options) of what is mounted for it, parents first."""
    common = "rw,rprivate,nosuid,nodev,tmpcopyup"
    run = f"{common},mode=755"
    if options.get("shm_size_systemd"):
        run += f",size={size(options['shm_size_systemd'], '--shm-size-systemd')}"
    journal = f"{common},mode=755"
    return [("/run", run), ("/run/lock", run), ("/tmp", f"{common},mode=1777"), ("/var/log/journal", journal)]


def variables(container_id: str) -> list[str]:
    """What systemd asks its environment for, beside ``container``."""
    return [f"container_uuid={container_id[:32]}"]
