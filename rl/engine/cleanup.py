"""rl container cleanup: what ended containers left behind. Monitors do that themselves, unless they are killed.

Reading a record corrects it and ends what is left of the container (rl.engine.containers.read_state); the rest is the
sweep that other commands do in passing (rl.engine.leftovers).
"""

from __future__ import annotations

from rl.engine import containers, leftovers
from rl.errors import NoSuchContainerError, NotFoundError, RlError, StateError
from rl.runtime import sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def cleanup(
    engine: Engine, names: list[str], *, all: bool = False, remove: bool = False, remove_image: bool = False,
    stopped_only: bool = False,
) -> list[tuple[str, RlError | None]]:  # fmt: skip
    """Clean up after each of *names*, or *all*; (name as given, error or None) for each.

    *remove* the container then, and *remove_image* that one, too. A container that runs is an error; with
    *stopped_only* it is left alone.
    """
    results: list[tuple[str, RlError | None]] = []
    for name in containers.ids(engine.paths) if all else names:
        try:
            if _cleanup(engine, name, stopped_only):
                results.append((name, _remove(engine, name, remove, remove_image)))
        except NoSuchContainerError as error:
            if not all:
                results.append((name, error))
        except RlError as error:
            results.append((name, error))
    leftovers.sweep(engine.paths)
    return results


def _cleanup(engine: Engine, name: str, stopped_only: bool) -> bool:
    """Whether it has ended, and so is clean now."""
    container_id = containers.find(engine.paths, name)
    if containers.read_state(engine.paths, container_id).get("status") not in containers.MONITORED:
        return True
    if stopped_only:
        return False
    what = f"container {container_id} is running or paused, refusing to clean up: container state improper"
    raise StateError(what, f"`rl stop {name}` first")


def _remove(engine: Engine, name: str, remove: bool, remove_image: bool) -> RlError | None:
    if not remove and not remove_image:
        return None
    config = containers.read_config(engine.paths, containers.find(engine.paths, name))
    if remove:
        from rl.engine.rm import rm

        for _, error in rm(engine, [config["id"]]):
            if error is not None:
                return error
    if remove_image and config["image"]:
        from rl.engine.rmi import rmi

        errors = rmi(engine, [config["image"]]).errors
        return RlError(errors[0].message, errors[0].hint) if errors else None
    return None


def cleanup_session(engine: Engine, name: str, session: str) -> None:
    """``--exec``: a session cleans up itself, so there are only those that run. Raises StateError, NotFoundError."""
    container_id = containers.find(engine.paths, name)
    # asking who lives removes what a killed `rl exec` left
    if session in [each[0] for each in sessions.living(engine.paths.container_run(container_id))]:
        what = f"exec session {session} of container {container_id} is running, refusing to clean up"
        raise StateError(f"{what}: container state improper", "it ends with its command, or with the container")
    raise NotFoundError(
        f"container {container_id} has no exec session with ID {session} that has ended: no such exec session",
        "a session that has ended leaves nothing to clean up",
    )
