"""Telling what happened: :func:`emit` is called by every verb for each change of an object that it made.

On the hot path: an event costs some 50 µs and imports only `rl.monitor.eventlog`. `rl events`, which reads them, is
`rl.engine.eventstream`.
"""

from __future__ import annotations

from rl.config import containersconf
from rl.errors import RlError
from rl.monitor import eventlog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, Event, EventLog
    from rl.config.paths import Paths

#: Bytes of the log by default (Podman's), and of the one before it: together no more than two of these in /run.
LIMIT = 1_000_000

_asked = ""  # --events-backend
_logs: dict[str, EventLog] = {}  # by Paths.run


def use(backend: str) -> None:
    """Write events of this process to *backend* (file, journald, none), whatever containers.conf says."""
    global _asked
    _asked = backend
    _logs.clear()


def adopt(paths: Paths, found: EventLog) -> None:
    """Write events to *found*, which another process of this command has looked up."""
    _logs[paths.run] = found


def log(paths: Paths) -> EventLog:
    """Where events go: as asked for, else as containers.conf says, else to a file. Looked up once per process.

    Raises RlError for a containers.conf that is wrong.
    """
    if paths.run not in _logs:
        conf = containersconf.load(paths.run)
        _logs[paths.run] = {
            "backend": _asked or conf.get("engine.events_logger", "file"),
            "path": conf.get("engine.events_logfile_path") or f"{paths.run}/events/events.log",
            "limit": _limit(conf.get("engine.events_logfile_max_size", LIMIT)),
        }
    return _logs[paths.run]


def _limit(given: str | int) -> int:
    if isinstance(given, int):
        return max(0, given)
    from rl.engine.spec import values

    return values.size(given, "containers.conf: events_logfile_max_size")


def emit(
    paths: Paths, type: str, status: str, id: str, name: str, attributes: dict[str, str] | None = None
) -> None:
    """Tell that *status* happened to an object of *type*; never raises, never waits.

    *type*: container, image, volume, secret, pod, network, system. *status*: an event of podman-events(1). *attributes*
    are shown in brackets; some keys are fields of their own: image, containerExitCode, health_status, network, podId.
    """
    emit_all(paths, [eventlog.event(type, status, id, name, attributes)])


def emit_container(paths: Paths, config: ContainerConfig, *statuses: str, **attributes: str) -> None:
    """Events of the container *config*, by one write, with its image and its labels among the attributes."""
    attributes["image"] = config.get("image", "")
    identity, name, labels = config["id"], config.get("name", ""), config.get("labels", {})
    emit_all(paths, [eventlog.event("container", each, identity, name, attributes, labels) for each in statuses])


def emit_all(paths: Paths, events: list[Event]) -> None:
    """Several events of :func:`rl.monitor.eventlog.event`, by one write."""
    try:
        found = log(paths)
    except RlError:
        return  # of a command that reads containers.conf the user hears what is wrong
    eventlog.write(found, events)
