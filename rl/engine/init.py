"""rl init: bring a container up to its command, which then waits for `rl start`.

Network, mounts and the process are there, to be looked at; the monitor waits with it.
"""

from __future__ import annotations

from rl.engine import containers
from rl.engine.launching import Progress, Streams, launch_message
from rl.engine.prefork import prefork
from rl.errors import RlError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def init(engine: Engine, names: list[str], *, all: bool = False) -> list[tuple[str, RlError | None]]:
    """Initialize each of *names*; (name as given, error or None) for each.

    *all*: every container that does not run; one that does, or is initialized, is left as it is.
    """
    results: list[tuple[str, RlError | None]] = []
    for name in containers.ids(engine.paths) if all else names:
        try:
            _init(engine, name)
        except StateError as error:
            results.append((name, None if all else error))
        except RlError as error:
            results.append((name, error))
        else:
            results.append((name, None))
    return results


def _init(engine: Engine, name: str) -> None:
    container_id = containers.find(engine.paths, name)
    if containers.read_state(engine.paths, container_id).get("status") in containers.MONITORED:
        raise StateError(
            f"container {container_id} has already been created in runtime: container state improper",
            f"`rl start {name}` runs it, `rl stop {name}` ends it",
        )
    handle = prefork(engine.paths, container_id)
    progress = Progress(engine, handle.pid)
    message = launch_message(engine, Streams(False, False, False, ""))
    handle.launch({**message, "init": True}, progress)
    progress.done()
    handle.sock.close()
