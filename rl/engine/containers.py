"""The records of containers: finding them, reading them, keeping them true.

A container is a directory ``containers/<id>`` whose config.json exists; its name is the symbolic
link ``names/<name>`` (rl.engine.naming). Reading takes no lock. A record that says "running" while no monitor holds
the lock is corrected on sight (rl.engine.correction): the monitor was killed, or the host rebooted.

On the path of nearly every command.
"""

from __future__ import annotations

import os
import time

from rl.config.jsonio import read_json, write_json
from rl.errors import AmbiguousNameError, CorruptRecordError, NoSuchContainerError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState, RestartPolicy
    from rl.config.paths import Paths

HEX = frozenset("0123456789abcdef")

NO_RESTART: RestartPolicy = {"policy": "no", "retries": 0}

#: An empty file in the directory of a container with --rm: its records need not outlive the host's boot.
PASSING = "passing"
#: States of a container with processes.
LIVE = frozenset(("running", "paused", "stopping"))
#: States in which a monitor must be alive. "restarting": it waits to start the container again; "initialized": the
#: container's process waits for `rl start`.
MONITORED = LIVE | {"initialized", "restarting"}


def now() -> str:
    """The time as records keep it: RFC 3339, UTC, nanoseconds."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def tidy(paths: Paths, live: set[str]) -> None:
    """Sweep where something was left (rl/engine/leftovers.py). *live*: the containers that run.

    Costs four directory reads when there is nothing, which is nearly always.
    """
    try:
        records, runs = os.listdir(paths.containers), os.listdir(f"{paths.run}/containers")
        clean = (
            len(os.listdir(paths.names)) <= len(records)
            and live.issuperset(runs)
            and not any(name[0] == "." for name in records)
            and not any(name.startswith(("netns.", "slirp.")) for name in os.listdir(paths.run))
        )
    except OSError:
        return
    if not clean:
        from rl.engine.leftovers import sweep as sweep_all

        sweep_all(paths)


def ids(paths: Paths) -> list[str]:
    """All container ids, in no order."""
    try:
        return [name for name in os.listdir(paths.containers) if len(name) == 64]
    except FileNotFoundError:
        return []


def find(paths: Paths, name: str) -> str:
    """The id of the container with this name, id or unambiguous id prefix."""
    if name and "/" not in name and name not in (".", ".."):
        try:
            container_id = os.path.basename(os.readlink(f"{paths.names}/{name}"))
        except OSError:
            container_id = name if len(name) == 64 else ""
        if container_id and os.path.exists(f"{paths.container(container_id)}/config.json"):
            return container_id
        if HEX.issuperset(name):
            found = [i for i in ids(paths) if i.startswith(name)]
            found = [i for i in found if os.path.exists(f"{paths.container(i)}/config.json")]
            if len(found) == 1:
                return found[0]
            if found:
                raise AmbiguousNameError(
                    f"{len(found)} containers have an id that begins with {name}", "give more of the id, or the name"
                )
    raise NoSuchContainerError(
        f'no container with name or ID "{name}" found: no such container', "`rl ps -a` lists all containers"
    )


def read_record(path: str) -> dict[str, object]:
    """A JSON object. Raises FileNotFoundError, CorruptRecordError."""
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptRecordError(f"read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptRecordError(f"read {path}: {error}", _CORRUPT_HINT) from None
    if not isinstance(record, dict):
        raise CorruptRecordError(f"read {path}: not a JSON object", _CORRUPT_HINT)
    return record


_CORRUPT_HINT = "restore the file from a backup, or remove the container with `rl rm --force`"


def read_config(paths: Paths, container_id: str) -> ContainerConfig:
    """What was asked. Raises NoSuchContainerError, CorruptRecordError."""
    try:
        record = read_record(f"{paths.container(container_id)}/config.json")
    except FileNotFoundError:
        raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
    except CorruptRecordError:
        from rl.engine import correction

        directory = paths.container(container_id)
        if correction.is_torn(f"{directory}/config.json") and os.path.exists(f"{directory}/{PASSING}"):
            correction.after_power_cut(paths, container_id, "config.json")
        raise
    if not isinstance(record.get("id"), str) or not isinstance(record.get("name"), str):
        path = f"{paths.container(container_id)}/config.json"
        raise CorruptRecordError(f"read {path}: no id and name in it", _CORRUPT_HINT)
    return record  # type: ignore[return-value]


def read_state(paths: Paths, container_id: str) -> ContainerState:
    """Where it stands, corrected against reality. Raises NoSuchContainerError, CorruptRecordError."""
    path = f"{paths.container(container_id)}/state.json"
    state: ContainerState = {}
    for _ in range(3):
        try:
            state = read_record(path)  # type: ignore[assignment]
        except FileNotFoundError:
            raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
        except CorruptRecordError:
            from rl.engine import correction

            if not correction.is_torn(path):
                raise
            correction.after_power_cut(paths, container_id, "state.json")
            continue
        if not _is_state(state):
            raise CorruptRecordError(f"read {path}: no state of a container", _CORRUPT_HINT)
        if state["status"] not in MONITORED or userns.monitor_pid(f"{paths.container_run(container_id)}/lock") > 0:
            return state  # a lock held without a pid in it is somebody's who buries it just now
        from rl.engine import correction

        buried = correction.bury(paths, container_id, state)
        if buried:
            return buried
    if not state:
        raise CorruptRecordError(f"read {path}: it is empty", _CORRUPT_HINT)
    return state


_JOINING = ("pid_mode", "ipc_mode", "uts_mode", "cgroupns_mode", "userns")


def needs(config: ContainerConfig) -> list[str]:
    """The ids of the containers without which it does not run: of --requires, and those whose namespaces it joins."""
    modes = [config.get("network", {}).get("mode", ""), *(str(config.get(key, "")) for key in _JOINING)]
    joined = [mode.partition(":")[2] for mode in modes if mode.startswith("container:")]
    return list(dict.fromkeys([*config.get("requires", []), *joined]))


def limits(paths: Paths, config: ContainerConfig) -> dict[str, Any]:
    """The limits the container has, or will have when it starts: as asked at create, or as `rl update` left them."""
    found: dict[str, Any] = updated(paths, config["id"]).get("limits", config["limits"])
    return found


def restart_policy(paths: Paths, config: ContainerConfig) -> RestartPolicy:
    """The restart policy it has: as asked at create, or as `rl update` left it."""
    changed: RestartPolicy | None = updated(paths, config["id"]).get("restart")
    return changed or config.get("restart") or NO_RESTART


def environment(paths: Paths, config: ContainerConfig) -> list[str]:
    """The environment asked for, with what `rl update` changed since. Raises CorruptRecordError."""
    changes: dict[str, str | None] = updated(paths, config["id"]).get("env", {})
    if not changes:
        return config["env"]
    kept = [line for line in config["env"] if line.partition("=")[0] not in changes]
    return kept + [f"{name}={value}" for name, value in changes.items() if value is not None]


def updated(paths: Paths, container_id: str) -> dict[str, Any]:
    """updated.json: what `rl update` changed; {} when it changed nothing. Raises CorruptRecordError."""
    try:
        return read_record(f"{paths.container(container_id)}/updated.json")
    except FileNotFoundError:
        return {}


def _is_state(state: ContainerState) -> bool:
    """Whether it has what the correction needs, of the right types."""
    network = state.get("network", {})
    helpers = network.get("helpers", []) if isinstance(network, dict) else None
    return (
        isinstance(state.get("status"), str)
        and isinstance(state.get("pid", 0), int)
        and isinstance(state.get("pid_start", 0), int)
        and isinstance(state.get("exit_code", 0), int)
        and isinstance(helpers, list)
        and (not helpers or all(
            isinstance(item, list) and [type(number) for number in item] == [int, int] for item in helpers
        ))
    )


def write_state(paths: Paths, container_id: str, state: ContainerState, sync: bool = False) -> None:
    """Replace state.json atomically. Only the holder of the container's lock may call this."""
    write_json(f"{paths.container(container_id)}/state.json", state, sync=sync)
