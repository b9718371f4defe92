"""rl system upgrade-monitors: this rl takes over the monitors of running containers; those do not notice.

The new interpreter and program are tried out first. Each monitor then replaces itself by them, with its descriptors,
its children and what it holds in memory (rl.monitor.upgrade); one that refuses goes on as it is.
"""

from __future__ import annotations

import os
import subprocess

from rl.engine import containers
from rl.engine.monitors import Connection
from rl.errors import RlError
from rl.monitor import handover
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

#: Seconds for one monitor to answer.
_PATIENCE = 10.0


def upgrade_monitors(engine: Engine) -> list[tuple[str, str, RlError | None]]:
    """(container id, name, error or None) for every container with a living monitor.

    Raises RlError when this installation of rl cannot be a monitor at all.
    """
    wish = _wish()
    results: list[tuple[str, str, RlError | None]] = []
    for container_id, _ in sorted(userns.living_monitors(engine.paths.run)):
        try:
            name = containers.read_config(engine.paths, container_id)["name"]
        except RlError:
            name = container_id[:12]
        try:
            _upgrade(engine, container_id, wish)
        except (OSError, RlError) as error:
            why = error.message if isinstance(error, RlError) else error.strerror
            results.append((container_id, name, RlError(f"upgrade the monitor of container {name}: {why}", _HINT)))
        else:
            results.append((container_id, name, None))
    return results


_HINT = "its old monitor goes on; it is replaced when the container is started the next time"


def _wish() -> dict[str, Any]:
    """What the monitors are asked to become, tried out."""
    found = (handover.interpreter(), handover.helper_program(), handover.package_root())
    interpreter, helper, root = map(os.path.realpath, found)
    for path in (interpreter, helper, f"{root}/rl/monitor/main.py"):
        if os.stat(path).st_uid not in (0, os.getuid()):
            raise RlError(f"{path} belongs to neither root nor you", "monitors run only what one of you has installed")
    words = [interpreter, *handover.FLAGS, helper, "--probe", root]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip().isdigit():
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise RlError(f"{helper} does not run with {interpreter}: {last}", "install rl again")
    return {"interpreter": interpreter, "helper": helper, "root": root, "version": int(done.stdout)}


def _upgrade(engine: Engine, container_id: str, wish: dict[str, Any]) -> None:
    connection = Connection(engine.paths, container_id)
    try:
        connection.tell("upgrade", wish)
        connection.answer("upgraded", _PATIENCE)
    finally:
        connection.close()

