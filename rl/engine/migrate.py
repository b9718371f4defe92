"""rl system migrate: containers go on as they are with every version of rl; --new-runtime gives them another one."""

from __future__ import annotations

import os

from rl.config.jsonio import write_json
from rl.engine import containers
from rl.engine.prefork import forget_run_directory, take_lock
from rl.errors import NoSuchContainerError, NotFoundError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def migrate(engine: Engine, new_runtime: str = "") -> int:
    """Have every container started by *new_runtime* from now on ("rl", a path, a name on PATH); how many were changed.

    Raises NotFoundError where there is no such program, StateError where a container runs: nothing is changed then.
    """
    if not new_runtime:
        return 0
    _check_runtime(new_runtime)
    paths = engine.paths
    locks: dict[str, int] = {}
    changed = 0
    try:
        for container_id in containers.ids(paths):
            try:
                if containers.read_state(paths, container_id).get("status") in containers.LIVE:
                    raise StateError(
                        f"container {container_id[:12]} is running: its runtime cannot be changed",
                        "stop all containers first: rl stop --all",
                    )
                locks[container_id] = take_lock(paths, container_id)
            except NoSuchContainerError:
                continue  # removed meanwhile
        for container_id in locks:
            config = containers.read_config(paths, container_id)
            if config.get("runtime") != new_runtime:
                config["runtime"] = new_runtime
                write_json(f"{paths.container(container_id)}/config.json", config)
                changed += 1
    finally:
        for container_id, lock in locks.items():
            forget_run_directory(paths, container_id)
            os.close(lock)
    return changed


def _check_runtime(name: str) -> None:
    from rl.runtime.userns import find_program

    if name != "rl" and not (os.access(name, os.X_OK) if "/" in name else find_program(name)):
        hint = "give the path of an OCI runtime, its name, or rl for the built-in one"
        raise NotFoundError(f"runtime {name} not found", hint)
