"""rl container prune: remove all containers that do not run and that nobody needs."""

from __future__ import annotations

from rl.engine.container_filters import PRUNE, Filters
from rl.engine.dependencies import Dependents
from rl.engine.rm import rm
from rl.engine.selection import candidates
from rl.errors import ConflictError, RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine

_OVER = frozenset(("created", "exited"))


def container_prune(engine: Engine, filters: list[str] | None = None) -> list[tuple[str, RlError | None]]:
    """Remove them, or those of them that pass *filters* (label, annotation, until); (id, error or None) for each.

    What a container that stays needs (--requires, its network) stays with it. Raises UsageError.
    """
    ids = [each.id for each in candidates(engine, Filters(engine, filters or [], PRUNE), states=_OVER)]
    dependents = Dependents(engine.paths)
    free = [each for each in ids if all(other in ids for other in dependents.all_of(each))]
    # One that was started meanwhile is no error: it stays.
    return [(name, error) for name, error in rm(engine, free, ignore=True) if not isinstance(error, ConflictError)]
