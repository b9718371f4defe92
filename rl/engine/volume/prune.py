"""rl volume prune: remove the volumes that no container uses."""

from __future__ import annotations

from rl.engine.volume import records
from rl.engine.volume.ls import candidates
from rl.engine.volume.rm import remove
from rl.errors import NoSuchVolumeError, RlError, VolumeInUseError
from rl.image.content import records_lock
from rl.runtime import userns
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def unused(engine: Engine, filters: list[str] | None = None) -> list[str]:
    """The volumes that :func:`prune` would remove. Raises UsageError for a filter."""
    return [found.name for found in candidates(engine, [*(filters or []), "dangling=true"])]


def prune(engine: Engine, filters: list[str] | None = None) -> tuple[list[tuple[str, int]], list[RlError]]:
    """Remove them: ((name, bytes freed) of each, errors). One that comes into use meanwhile stays, silently."""
    from rl.engine.events import emit
    from rl.engine.ps import written

    names = unused(engine, filters)
    data = [records.data(engine.paths, name) for name in names]
    sizes = userns.call(engine.paths.run, written, data) if names else []
    removed: list[tuple[str, int]] = []
    errors: list[RlError] = []
    for name, size in zip(names, sizes, strict=True):
        try:
            with records_lock(engine.paths, exclusive=True):
                remove(engine.paths, name)
        except (VolumeInUseError, NoSuchVolumeError):
            continue
        except RlError as error:
            errors.append(error)
        else:
            removed.append((name, size))
    trash.empty(engine.paths)
    emit(engine.paths, "volume", "prune", "", "", {"reclaimed": str(sum(size for _, size in removed))})
    return removed, errors
