"""What commands tell the monitor of a container: packet 8 of the attach protocol, a JSON object with one key.

Called by `rl.monitor.loop`; `rl.engine.monitors` is the other end. The keys:

- ``signal``: {"number": n, "pid": p, "stop": bool, "time": seconds or null}. Said *before* `rl stop` or `rl kill`
  signals process p: a container that its user has ended is not started again. If p is not the container's process
  (any more, or not yet), the monitor does itself what was meant.
- ``restart``: {"time": seconds or null}. Stop it, and start it again at once. The answer, when that is done or has
  failed, is packet 6 (progress) with ``started`` or ``error``.
- ``start``: {}. Between two runs: do not wait any longer; before the first (`rl init`): run. The answer as above.
- ``health``: what to know of a health check that takes the place of the present one (rl.monitor.health); {}: none.
- ``probe``: {}. Check the container's health now. The answer is packet 6 with ``probe``, the exit code of the check's
  command, and ``status``, what that says; ``probe`` is null where there is none to be had.
- ``policy``: a restart policy that takes the place of the present one.
- ``upgrade``: see rl.monitor.upgrade. The answer is a packet 6 with ``upgraded`` or ``error``.
- ``freeze``: true or false. Pause it, or let it go on: see `rl.monitor.freezer`.
- ``name``: {"old": link, "new": link, "name": name}. It was renamed: with --rm another name has to be freed.
"""

from __future__ import annotations

from rl.config.jsonio import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.monitor.clients import Client
    from rl.monitor.health import Health
    from rl.monitor.loop import Monitor

#: Signals of `rl kill` that are sent to end a container: SIGHUP, say, rather has it read its configuration again.
_ENDING = (2, 3, 6, 9, 15)  # as rl.engine.signalling.ENDING


def obey(monitor: Monitor, client: Client, payload: bytes) -> None:
    """Do what the packet says; what is no such document changes nothing."""
    try:
        message = loads(payload.decode())
        for key, value in message.items():
            if key in _COMMANDS:
                _COMMANDS[key](monitor, client, value)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass


def _signal(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    params = monitor.params
    params.setdefault("stopped_by_user", False)
    number, ours = int(value["number"]), int(value["pid"]) == params["pid"] != 0
    if value["stop"] or number in (*_ENDING, params["stop_signal"]):
        params["stopped_by_user"] = True
        if value["stop"] and params.get("after") == "restart":
            params["after"] = "stop"  # the later request counts
    else:
        params["user_signals"] = [*params.get("user_signals", []), number][-100:]
    if not ours:
        if value["stop"] or (params["stopped_by_user"] and not params["pid"]):
            monitor.request_stop(timeout=value["time"])
        else:
            monitor.kill(number)


def _restart(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    monitor.params["stopped_by_user"], monitor.params["restarts"] = False, 0
    monitor.request_stop(restart=True, timeout=value["time"])


def _start(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    if monitor.begin is not None:
        begin, monitor.begin = monitor.begin, None
        begin(client)
    elif not monitor.params["pid"]:
        _restart(monitor, client, {"time": None})
    else:
        monitor.send(client, started(monitor.params["pid"]))


def _policy(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    monitor.params["restart"] = {"policy": str(value["policy"]), "retries": int(value["retries"])}


def _upgrade(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    from rl.monitor import upgrade

    upgrade.upgrade(monitor, client, value)


def _health(monitor: Monitor, client: Client, value: Health) -> None:
    if monitor.params["pid"] and monitor.begin is None:
        monitor.end_checks()
        monitor.params["health"] = value
        monitor.check_health()


def _probe(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    if monitor.checks is not None:
        monitor.checks.ask(client)
    else:
        monitor.send(client, b'\6{"probe": null}')


def _freeze(monitor: Monitor, client: Client, value: bool) -> None:
    from rl.monitor import freezer

    freezer.set_frozen(monitor, client, value)


def _name(monitor: Monitor, client: Client, value: dict[str, Any]) -> None:
    params = monitor.params
    params["log"]["name"] = str(value["name"])
    params["delete"] = [str(value["new"]) if path == value["old"] else path for path in params.get("delete", [])]


def started(pid: int) -> bytes:
    """The packet that says that the container's process is *pid* now."""
    return b'\6{"started": %d}' % pid


_COMMANDS: dict[str, Callable[[Monitor, Client, Any], None]] = {
    "freeze": _freeze, "health": _health, "name": _name, "policy": _policy, "probe": _probe, "restart": _restart,
    "signal": _signal, "start": _start, "upgrade": _upgrade,
}  # fmt: skip
