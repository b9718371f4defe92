"""Temporary."""

from __future__ import annotations

from rl.config.jsonio import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.clients import Client
    from rl.monitor.loop import Monitor


def obey(monitor: Monitor, client: Client, payload: bytes) -> None:
    message = loads(payload.decode())
    if "probe" in message and monitor.checks:
        monitor.checks.ask(client)
