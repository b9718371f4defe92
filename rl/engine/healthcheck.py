"""Health checks: a container's health as the other verbs show it, and `rl healthcheck run`.

The monitor probes (`rl.monitor.health`) and its probes write health.json; here that is begun and read. Containers
without a health check pay nothing: it is the key ``health`` of their config that has this module imported.
"""

from __future__ import annotations

from rl.config.jsonio import read_json, write_json
from rl.engine import containers
from rl.errors import NoSuchContainerError, RlError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, HealthCheck, HealthRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.monitor.health import Health

STATUSES = ("starting", "healthy", "unhealthy")


def has_check(config: ContainerConfig) -> bool:
    """Whether the container is probed, by the clock or by hand."""
    return config.get("health", {}).get("test", ["NONE"]) != ["NONE"]


def begin(paths: Paths, config: ContainerConfig) -> Health:
    """At a container's start, its health is not known: record that; what its monitor has to know of the check."""
    if not has_check(config):
        return {}
    from rl.monitor.probe import read_log

    path = _path(paths, config["id"])
    record: HealthRecord = {"status": "starting", "failing_streak": 0, "log": read_log(path)}
    try:
        write_json(path, record, sync=False)
    except OSError:
        pass  # a full disk: the container is worth more than what `rl ps` says of it
    return {
        "config": config["health"], "bundle": f"{paths.container(config['id'])}/bundle", "cache": paths.cache,
        "starting": "startup" in config["health"],
    }  # fmt: skip


def change(paths: Paths, config: ContainerConfig, options: dict[str, Any], running: bool) -> None:
    """`rl update`: check it in another way from now on, as *options* say. Raises UsageError, NotFoundError.

    config.json is written anew, under the lock of `rl rename`, which does the same.
    """
    import fcntl
    import os

    from rl.engine.spec.health import changed

    names = os.open(paths.names, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(names, fcntl.LOCK_EX)
        config = containers.read_config(paths, config["id"])
        found = changed(options, config.get("health"))
        if found is not None:
            config["health"] = found
            write_json(f"{paths.container(config['id'])}/config.json", config, sync=not config.get("remove"))
    finally:
        os.close(names)
    if running:
        _tell(paths, config)


def _tell(paths: Paths, config: ContainerConfig) -> None:
    """Its monitor; where there is none, the next start reads the record."""
    from rl.engine.monitors import Connection

    try:
        connection = Connection(paths, config["id"])
    except OSError:
        return
    try:
        connection.tell("health", dict(begin(paths, config)))
    except OSError:
        pass  # it ends just now
    finally:
        connection.close()


def _path(paths: Paths, container_id: str) -> str:
    return f"{paths.container(container_id)}/health.json"


def read(paths: Paths, container_id: str) -> HealthRecord:
    """How the container is; {} before its first start, or where a power cut has torn the record."""
    try:
        record: HealthRecord = read_json(_path(paths, container_id))
        if record["status"] in STATUSES and isinstance(record["log"], list):
            return record
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return {}


def status(paths: Paths, config: ContainerConfig) -> str:
    """starting, healthy or unhealthy; "" for a container without a health check."""
    return read(paths, config["id"]).get("status", "starting") if has_check(config) else ""


def wait_health(paths: Paths, container_id: str, state: str, wanted: set[str]) -> bool:
    """Whether the container, whose state is *state*, is as healthy as `rl wait` *wanted* it to be.

    To be asked each time a record of it has changed. Raises StateError where it never will be: it has no health
    check, or it has ended.
    """
    config = containers.read_config(paths, container_id)
    if not has_check(config):
        raise StateError(
            f"container {config['name']} has no defined healthcheck", "give it one: rl run --health-cmd COMMAND …"
        )
    if state == "running":
        return status(paths, config) in wanted
    if state in ("exited", "removing") and "exited" not in wanted:
        words = " or ".join(sorted(wanted.intersection(STATUSES)))
        raise StateError(f"container {config['name']} has ended before it was {words}", f"rl logs {config['name']}")
    return False


def state_document(paths: Paths, config: ContainerConfig) -> dict[str, Any]:
    """``.State.Health`` of `rl inspect`."""
    record = read(paths, config["id"]) if has_check(config) else {}
    return {
        "Status": record.get("status", ""), "FailingStreak": record.get("failing_streak", 0),
        "Log": record.get("log") or None,
    }  # fmt: skip


def config_document(config: ContainerConfig) -> dict[str, Any]:
    """The keys of ``.Config`` in `rl inspect` that a health check adds."""
    found = config["health"]
    document: dict[str, Any] = {"Healthcheck": _check_document(found)}
    if "startup" in found:
        document["StartupHealthCheck"] = _check_document(found["startup"])
    if has_check(config):
        document.update(
            HealthcheckOnFailureAction=found.get("on_failure", "none"),
            HealthLogDestination=found.get("log_destination", "local"),
            HealthcheckMaxLogCount=found.get("max_log_count", 5), HealthcheckMaxLogSize=found.get("max_log_size", 500),
        )
    return document


def _check_document(check: HealthCheck) -> dict[str, Any]:
    """As Podman's: what is zero is left out."""
    names = {
        "interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod", "start_interval": "StartInterval",
        "retries": "Retries", "success": "Successes",
    }  # fmt: skip
    return {"Test": check["test"], **{name: check[key] for key, name in names.items() if check.get(key)}}  # type: ignore[literal-required]


def healthcheck_run(engine: Engine, container: str) -> tuple[int, str]:
    """Have the container's monitor probe now: (exit code of the check's command, what that says of the container).

    The code is -1 for one that took too long; in words, as Podman has them: healthy, unhealthy, or starting for a
    start-up check that has not passed. The result counts like any other. A probe that is at work is waited for
    instead. Raises NoSuchContainerError, StateError, RlError.
    """
    try:
        container_id = containers.find(engine.paths, container)
    except NoSuchContainerError as error:
        what = f"unable to look up {container} to perform a health check: {error.message}"
        raise NoSuchContainerError(what, error.hint) from None
    config = containers.read_config(engine.paths, container_id)
    name = config["name"]
    if not has_check(config):
        raise StateError(
            f"container {container_id} has no defined healthcheck", "give it one: rl run --health-cmd COMMAND …"
        )
    state = containers.read_state(engine.paths, container_id).get("status", "")
    if state != "running":
        hint = f"rl unpause {name}" if state == "paused" else f"rl start {name}"
        raise StateError(f"container {container_id} is not running: it is {state}", hint)
    answer = _ask(engine.paths, container_id)
    if answer is None:
        raise StateError(f"container {container_id} is not running: it has just ended", "`rl ps -a` shows its state")
    if answer["probe"] is None:
        raise RlError(f"check the health of container {name}: no probe could be made", "`rl ps -a` shows its state")
    if answer["status"] not in STATUSES or not isinstance(answer["probe"], int):
        raise RlError(f"the monitor of container {name} answered {answer}", "restart the container")
    return answer["probe"], answer["status"]


def _ask(paths: Paths, container_id: str) -> dict[str, Any] | None:
    """The monitor's answer, None when it is gone, or goes."""
    from rl.engine.monitors import Connection

    try:
        connection = Connection(paths, container_id)
    except OSError:
        return None
    try:
        connection.tell("probe", {})
        return connection.answer("probe")
    except (OSError, RlError):
        return None
    finally:
        connection.close()
