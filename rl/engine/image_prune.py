"""rl image prune: remove images that nothing uses, and what only they used."""

from __future__ import annotations

import os

from rl.engine import rmi
from rl.engine.collect import collect
from rl.engine.disk_usage import image_sizes
from rl.engine.images import images
from rl.errors import ConflictError, NoSuchImageError, RlError, UsageError
from rl.image.content import records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.engine.context import Engine

#: What --filter takes (podman-image-prune(1)), of the filters of `rl images`.
FILTERS = ("label", "label!", "until")


class Pruned:
    """``ids`` of the images removed, ``freed`` bytes of layers and blobs."""

    __slots__ = ("errors", "freed", "ids")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.errors: list[RlError] = []
        self.freed = 0


def check_filters(filters: list[str], refusal: str = 'unsupported image filter "{}"') -> None:
    """Raises UsageError, in the words of *refusal*, for one that does not choose what is pruned."""
    for text in filters:
        key, equals, _ = text.partition("=")
        if not equals:
            raise UsageError(f'invalid filter "{text}"', "write it as KEY=VALUE: --filter until=24h")
        if key not in FILTERS:
            raise UsageError(refusal.format(key), f"known filters: {', '.join(FILTERS)}")


def prune(
    engine: Engine, *, all: bool = False, filters: list[str] | None = None, build_cache: bool = False
) -> Pruned:
    """Remove the images without a name that no image is built on; *all*: also those with names, unless a container
    uses them. *build_cache*: what builds keep: their cache, and that of ``--mount=type=cache``.

    An image that comes into use meanwhile stays. While another process adds an image, the blobs and layers are freed by
    that one when it has finished (rl.engine.collect).
    """
    check_filters(filters or [])
    before = image_sizes(engine.paths)
    pruned = Pruned()
    gone: list[ImageRecord] = []
    report = rmi.Report()
    for _ in range(50):  # as Podman: a removed child makes its parent dangling
        found = [image for image in images(engine, filters=filters, all=True) if not image.get("IsManifestList")]
        wanted = [image for image in found if all or image["Dangling"]]
        count = len(report.deleted)
        for image in wanted:
            _remove(engine, image["Id"], report, gone)
        if len(report.deleted) == count:
            break
    if gone:
        collect(engine, gone)
    left = image_sizes(engine.paths)
    pruned.freed = sum(size for item, size in before.items() if item not in left)
    pruned.ids, pruned.errors = report.deleted, report.errors
    if build_cache:
        pruned.freed += drop_build_cache(engine)
    return pruned


def _remove(engine: Engine, image_id: str, report: rmi.Report, gone: list[ImageRecord]) -> None:
    try:
        with records_lock(engine.paths, exclusive=True):
            rmi.remove_locked(engine.paths, image_id, report, gone)
    except (ConflictError, NoSuchImageError):
        return  # in use, or another is built on it; or somebody else removed it
    except RlError as error:
        report.errors.append(error)


def drop_build_cache(engine: Engine) -> int:
    """Forget all builds; the bytes freed. While one is at work nothing is."""
    from rl.engine.build import cache
    from rl.image.content import Lock
    from rl.storage import trash

    if not os.path.isdir(f"{engine.paths.data}/build"):
        return 0
    before = cache.sizes(engine.paths)
    try:
        with Lock(f"{engine.paths.content}/lock", exclusive=True, wait=False):
            cache.prune(engine.paths)
    except BlockingIOError:
        engine.warn("the build cache stays: a build, a pull or a load is at work")
        return 0
    trash.empty(engine.paths)
    collect(engine)
    after = cache.sizes(engine.paths)
    return sum(before.values()) - sum(after.values())
