"""rl system prune: everything that nothing uses, in Podman's order: containers, volumes, images."""

from __future__ import annotations

from rl.engine import containers, image_prune, ps
from rl.engine.collect import collect
from rl.engine.container_prune import container_prune
from rl.engine.disk_usage import image_sizes
from rl.engine.volume import prune as volume_prune
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


class Pruned:
    """Ids and names of what was removed, and the bytes that were freed."""

    __slots__ = ("containers", "errors", "freed", "images", "volumes")

    def __init__(self) -> None:
        self.containers: list[str] = []
        self.volumes: list[str] = []
        self.images: list[str] = []
        self.errors: list[RlError] = []
        self.freed = 0

    def add(self, other: Pruned) -> bool:
        """Take in what a further round removed; whether there was anything."""
        for name in ("containers", "volumes", "images", "errors"):
            getattr(self, name).extend(getattr(other, name))
        self.freed += other.freed
        return bool(other.containers or other.volumes or other.images)


def prune(engine: Engine, *, all: bool = False, filters: list[str] | None = None, volumes: bool = False) -> Pruned:
    """Remove stopped containers and dangling images; *all*: also unused images with names, and what builds keep;
    *volumes*: unused ones too.

    With *all* again and again, at most 50 times, as long as there is something. Raises UsageError for a filter.
    """
    check_filters(filters or [])
    total = Pruned()
    for _ in range(50 if all else 1):
        if not total.add(_round(engine, all, filters or [], volumes)) or total.errors:
            break
    if all and not filters:
        total.freed += image_prune.drop_build_cache(engine)
    return total


def check_filters(filters: list[str]) -> None:
    """Raises UsageError for one that does not choose what is pruned."""
    image_prune.check_filters(filters, "{} is an invalid filter")


def _round(engine: Engine, all: bool, filters: list[str], volumes: bool) -> Pruned:
    found = Pruned()
    _containers(engine, filters, found)
    if volumes:
        removed, errors = volume_prune.prune(engine, filters)
        found.volumes = [name for name, _ in removed]
        found.freed += sum(size for _, size in removed)
        found.errors += errors
    pruned = image_prune.prune(engine, all=all, filters=filters)
    found.images = pruned.ids
    found.freed += pruned.freed
    found.errors += pruned.errors
    return found


def _containers(engine: Engine, filters: list[str], found: Pruned) -> None:
    configs = []
    for container_id in containers.ids(engine.paths):
        try:
            if containers.read_state(engine.paths, container_id).get("status") not in containers.MONITORED:
                configs.append(containers.read_config(engine.paths, container_id))
        except RlError:
            continue
    measured = ps.container_sizes(engine, configs) if configs else []
    sizes = {config["id"]: size["rwSize"] for config, size in zip(configs, measured, strict=True)}
    for container_id, error in container_prune(engine, filters):
        if error is None:
            found.containers.append(container_id)
            found.freed += sizes.get(container_id, 0)
        else:
            found.errors.append(error)


def leftovers(engine: Engine) -> int:
    """`--external`: only what killed processes left, and blobs and layers that no record names; the bytes of those."""
    before = image_sizes(engine.paths)
    collect(engine)
    left = image_sizes(engine.paths)
    return sum(size for item, size in before.items() if item not in left)
