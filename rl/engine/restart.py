"""rl restart: stop containers and start them again.

A running container stays with its monitor, which stops it, starts it again and says so: attached clients stay
attached, and --rm does not remove it. What does not run is started.
"""

from __future__ import annotations

from rl.engine import containers
from rl.engine.monitors import Connection
from rl.engine.start import start, start_needed
from rl.errors import NoSuchContainerError, RlError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def restart(
    engine: Engine, names: list[str], *, time: int | None = None, all: bool = False, running: bool = False
) -> list[tuple[str, RlError | None]]:
    """Restart each of *names*; (name as given, error or None) for each. All are stopped at the same time, but those
    that need others of them only when these run again: they join their namespaces.

    *time*: seconds before SIGKILL instead of the container's own. *all*: every container; *running*: of *names*, or of
    all if there are none, those that run.
    """
    if all or (running and not names):
        names = containers.ids(engine.paths)
    results: dict[int, RlError | None] = {}
    needs: dict[int, tuple[str, list[str]]] = {}  # index → (id, the ids it needs)
    for index, name in enumerate(names):
        try:
            container_id = containers.find(engine.paths, name)
            needs[index] = container_id, containers.needs(containers.read_config(engine.paths, container_id))
        except RlError as error:
            results[index] = error
    while needs:
        left = {container_id for container_id, _ in needs.values()}
        wave = [index for index, (_, needed) in needs.items() if left.isdisjoint(needed)] or list(needs)
        _restart(engine, {index: (needs.pop(index)[0], names[index]) for index in wave}, results, time, running)
    removed = [index for index, error in results.items() if all and isinstance(error, NoSuchContainerError)]
    return [(names[index], results[index]) for index in sorted(results.keys() - removed)]


def _restart(
    engine: Engine, wave: dict[int, tuple[str, str]], results: dict[int, RlError | None], time: int | None,
    running: bool,
) -> None:
    """All of *wave* (index → id and name) at once."""
    waiting: list[tuple[int, Connection]] = []
    for index, (container_id, name) in wave.items():
        try:
            status = containers.read_state(engine.paths, container_id).get("status")
            if status in ("running", "stopping", "restarting"):
                start_needed(engine, containers.read_config(engine.paths, container_id))
                waiting.append((index, _ask(engine, container_id, time)))
            elif running:
                continue
            elif status == "paused":
                raise StateError(
                    "unable to restart a container in a paused or unknown state: container state improper",
                    f"rl unpause {name}",
                )
            else:
                results[index] = start(engine, [container_id], {})[0][0][1]
        except RlError as error:
            results[index] = error
    for index, connection in waiting:
        try:
            connection.started()
            results[index] = None
        except RlError as error:
            results[index] = error
        finally:
            connection.close()


def _ask(engine: Engine, container_id: str, time: int | None) -> Connection:
    try:
        connection = Connection(engine.paths, container_id)
        connection.tell("restart", {"time": time})
        return connection
    except OSError as error:
        what = f"restart container {container_id[:12]}: reach its monitor: {error.strerror}"
        raise RlError(what, "it may be ending just now: try again") from None

