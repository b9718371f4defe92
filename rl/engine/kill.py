"""rl kill: send a signal to the main process of containers."""

from __future__ import annotations

import os

from rl.config.signals import parse_signal
from rl.engine import containers, events, selection, signalling
from rl.errors import NoSuchContainerError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerState
    from rl.engine.context import Engine
    from rl.errors import RlError


def kill(
    engine: Engine, names: list[str], signal: str | int = "KILL", *, all: bool = False
) -> list[tuple[str, RlError | None]]:
    """Signal each of *names*, or with *all* every running container; (name as given, error or None) for each.

    Does not wait for what the signal brings about. Raises UsageError for a signal that does not exist.
    """
    number = parse_signal(signal)
    chosen = selection.monitored(engine.paths) if all else names
    passed_over = (StateError, NoSuchContainerError) if all else ()
    return selection.each(chosen, lambda name: _kill(engine, name, number), passed_over)


def _kill(engine: Engine, name: str, number: int) -> None:
    container_id = containers.find(engine.paths, name)
    config = containers.read_config(engine.paths, container_id)  # now: with --rm it may be gone right after the signal
    state = containers.read_state(engine.paths, container_id)
    status = state.get("status", "")
    if status in containers.LIVE or status == "restarting":
        signalling.tell(engine.paths, container_id, number, state)
        if _signal(state, number, name) or (number in signalling.ENDING and _ended_as_told(engine, container_id)):
            events.emit_container(engine.paths, config, "kill", signal=str(number))
            return
        status = "exited"
    raise StateError(
        f"can only kill running containers. {container_id} is in state {status}: container state improper",
        f"`rl start {name}` runs it",
    )


def _signal(state: ContainerState, number: int, name: str) -> bool:
    pidfd = signalling.open_init(state)
    try:
        return signalling.send(pidfd, number, name)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _ended_as_told(engine: Engine, container_id: str) -> bool:
    """There was no process to signal: between two runs its monitor ends the container, or has done so by now."""
    state = containers.read_state(engine.paths, container_id)
    return state.get("status") in containers.MONITORED or state.get("stopped_by_user", False)
