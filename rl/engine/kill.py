"""rl kill: send a signal to the main process of containers."""

from __future__ import annotations

import os

from rl.config.signals import parse_signal
from rl.engine import containers, events, selection, signalling
from rl.errors import NoSuchContainerError, RlError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def kill(
    engine: Engine, names: list[str], signal: str | int = "KILL", *, all: bool = False
) -> list[tuple[str, RlError | None]]:
    """Signal each of *names*, or with *all* every running container; (name as given, error or None) for each.

    Does not wait for what the signal brings about. Raises UsageError for a signal that does not exist.
    """
    number = parse_signal(signal)
    results: list[tuple[str, RlError | None]] = []
    for name in selection.monitored(engine.paths) if all else names:
        try:
            _kill(engine, name, number)
        except (StateError, NoSuchContainerError) as error:
            if not all:
                results.append((name, error))
            continue
        except RlError as error:
            results.append((name, error))
            continue
        results.append((name, None))
    return results


def _kill(engine: Engine, name: str, number: int) -> None:
    container_id = containers.find(engine.paths, name)
    config = containers.read_config(engine.paths, container_id)  # now: with --rm it may be gone right after the signal
    state = containers.read_state(engine.paths, container_id)
    status = state.get("status", "")
    if status in containers.LIVE or status == "restarting":
        signalling.tell(engine.paths, container_id, number, state)
        if status == "restarting" and number in signalling.ENDING:
            return
        pidfd = signalling.open_init(state)
        try:
            if signalling.send(pidfd, number, name):
                events.emit_container(engine.paths, config, "kill", signal=str(number))
                return
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        status = "exited"
    raise StateError(
        f"can only kill running containers. {container_id} is in state {status}: container state improper",
        f"`rl start {name}` runs it",
    )
