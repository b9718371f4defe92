"""rl pause and rl unpause: stop all processes of containers where they are, and let them go on.

The monitor freezes the container's cgroup and records it; here we only wait until all processes stand. Without a cgroup
there is no pausing: SIGSTOP would be seen by the container, and could be undone by it.
"""

from __future__ import annotations

from rl.engine import containers, events, selection
from rl.engine.monitors import Connection
from rl.errors import NoSuchContainerError, RlError, StateError, UnsupportedError
from rl.runtime import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ContainerConfig, ContainerState
    from rl.engine.context import Engine

    Check = Callable[[str, ContainerState], None]


def pause(engine: Engine, names: list[str], *, all: bool = False) -> list[tuple[str, RlError | None]]:
    """Pause each of *names*, or with *all* every running container; (name as given, error or None) for each."""
    return _each(engine, names, all, True)


def unpause(engine: Engine, names: list[str], *, all: bool = False) -> list[tuple[str, RlError | None]]:
    """Let each of *names* go on, or with *all* every paused container; (name as given, error or None) for each."""
    return _each(engine, names, all, False)


class _NotNowError(StateError):
    """It is in a state in which it cannot be paused, or unpaused."""


def _each(engine: Engine, names: list[str], all: bool, frozen: bool) -> list[tuple[str, RlError | None]]:
    chosen = selection.monitored(engine.paths) if all else names
    passed_over = (_NotNowError, NoSuchContainerError) if all else ()
    return selection.each(chosen, lambda name: _set_frozen(engine, name, frozen), passed_over)


def _set_frozen(engine: Engine, name: str, frozen: bool) -> None:
    container_id = containers.find(engine.paths, name)
    config = containers.read_config(engine.paths, container_id)
    state = containers.read_state(engine.paths, container_id)
    _check(config, state, frozen)
    path = state.get("cgroup", "")
    try:
        connection = Connection(engine.paths, container_id)
    except OSError as error:
        what = f"{'pause' if frozen else 'unpause'} container {name}: reach its monitor: {error.strerror}"
        raise RlError(what, "it may be ending just now: `rl ps -a` shows its state") from None
    try:
        connection.tell("freeze", frozen)
        connection.answer("frozen")
        try:
            cgroup.Cgroup(path).wait_frozen(int(frozen))
        except RlError:
            if frozen:  # a process that waits for a device cannot be stopped: no half of a pause
                connection.tell("freeze", False)
                connection.answer("frozen")
            raise
    finally:
        connection.close()
    events.emit_container(engine.paths, config, "pause" if frozen else "unpause")


def _check(config: ContainerConfig, state: ContainerState, frozen: bool) -> None:
    """Raises unless it can be paused, or unpaused, now."""
    status, name = state.get("status", ""), config["name"]
    if not frozen:
        if status != "paused":
            what = f'"{config["id"]}" is not paused, can\'t unpause: container state improper'
            raise _NotNowError(what, f"it is {status}: rl pause {name}" if status == "running" else f"it is {status}")
        return
    if status != "running":
        hint = f"rl unpause {name}" if status == "paused" else f"rl start {name}"
        raise _NotNowError(f'"{status}" is not running, can\'t pause: container state improper', hint)
    if not state.get("cgroup"):
        support = cgroup.detect()
        why = support.reason if support.mode == "none" else "it was started without one"
        raise UnsupportedError(
            f"pause container {name}: it has no cgroup, and only a cgroup can be frozen ({why})",
            support.hint or "start it again, without --cgroups=disabled",
        )
