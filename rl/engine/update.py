"""rl update: change a container's limits, in its cgroup if it runs and for its next start; and its restart policy.

What was asked at create stays in config.json; what was changed since stands in updated.json beside it, and
:func:`rl.engine.containers.limits` reads both.
"""

from __future__ import annotations

import fcntl
import os

from rl.config.jsonio import write_json
from rl.engine import containers, events
from rl.engine.spec import environment, limits, restart
from rl.errors import RlError, StateError, UnsupportedError, UsageError, disk_hint
from rl.runtime import cgroup
from rl.runtime.cgroup.limits import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import RestartPolicy
    from rl.engine.context import Engine


def update(engine: Engine, name: str, options: dict[str, Any]) -> str:
    """Change what *options* (the flags for limits and health checks, ``restart``) name; the container's id.

    Raises NoSuchContainerError, UsageError when nothing is to change, and UnsupportedError when a limit cannot be set:
    then none has changed.
    """
    container_id = containers.find(engine.paths, name)
    directory = os.open(engine.paths.container(container_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two updates at once: the second sees what the first has changed
        config = containers.read_config(engine.paths, container_id)
        present = containers.limits(engine.paths, config)
        changes = limits.resources(options, present)
        variables = environment.changes(options)
        checks = any("health" in key for key in options)
        if not changes and "restart" not in options and not variables and not checks:
            raise UsageError("nothing to change: no flag was given", "see: rl update --help")
        merged = limits.merge(present, changes)
        settings(merged)  # raises for what contradicts
        state = containers.read_state(engine.paths, container_id)
        record = containers.updated(engine.paths, container_id)
        if variables:
            record["env"] = {**record.get("env", {}), **variables}
        if "restart" in options:
            record["restart"] = restart.policy(options["restart"], config.get("remove", False))
        if changes:
            if state.get("status") in containers.LIVE:
                _apply(state.get("cgroup", ""), changes, merged, present)
            record["limits"] = merged
        if checks:
            from rl.engine import healthcheck

            healthcheck.change(engine.paths, config, options, running=state.get("status") in containers.LIVE)
        write_json(f"{engine.paths.container(container_id)}/updated.json", record, sync=not config.get("remove"))
        if "restart" in options:
            _tell(engine, container_id, record["restart"])
    except OSError as error:
        raise RlError(f"update container {name}: {error.strerror}", disk_hint(error)) from None
    finally:
        os.close(directory)
    events.emit_container(engine.paths, config, "update")
    return container_id


def _tell(engine: Engine, container_id: str, policy: RestartPolicy) -> None:
    """Its monitor, which decides by it; where there is none, the next start reads the record."""
    from rl.engine.monitors import Connection

    try:
        connection = Connection(engine.paths, container_id)
    except OSError:
        return
    try:
        connection.tell("policy", dict(policy))
    except OSError:
        pass  # it ends just now
    finally:
        connection.close()


def _apply(path: str, changes: dict[str, Any], merged: dict[str, Any], present: dict[str, Any]) -> None:
    """In the living cgroup: all of *changes*, or none."""
    if not path:
        support = cgroup.detect()
        raise UnsupportedError(
            f"change limits: the container has no cgroup{': ' + support.reason if support.reason else ''}",
            support.hint or "start it again, without --cgroups=disabled",
        )
    group = cgroup.Cgroup(path)
    if not os.path.isdir(path):
        raise StateError("change limits: the container has just ended", "once more: they count at its next start")
    # What belongs together in one file is set together: swap depends on memory, quota on period.
    wanted = {key: merged[key] for key in changes}
    refused = group.apply(wanted)
    if refused:
        group.apply(_former(changes, present))
        raise UnsupportedError(f"limits cannot be set: {'; '.join(refused)}", cgroup.DELEGATE_HINT)


_NONE: dict[str, dict[str, Any]] = {
    "memory": {"limit": -1, "swap": -1, "reservation": 0},
    "cpu": {"quota": -1, "period": 100_000, "shares": 1024},
    "pids": {"limit": -1},
}


def _former(changes: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """What takes *changes* back: the values before, "no limit" where there was none."""
    former: dict[str, Any] = {}
    for key, none in _NONE.items():
        if key in changes:
            former[key] = {name: value for name, value in none.items() if name in changes[key]} | present.get(key, {})
    block = changes.get("blockIO", {})
    free = {key: [{**entry, "rate": 0} for entry in entries] for key, entries in block.items() if "throttle" in key}
    if free:
        former["blockIO"] = free | present.get("blockIO", {})
    return former
