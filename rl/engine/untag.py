"""rl untag: take names away from an image; the image itself stays."""

from __future__ import annotations

from rl.engine import events
from rl.errors import NoSuchImageError
from rl.image import store
from rl.image.content import records_lock
from rl.image.reference import normalize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def untag(engine: Engine, image: str, names: list[str] | None = None) -> list[str]:
    """Take *names* away from *image*, all its names when there are none; the names taken.

    Nothing is done unless the image has all of them. Raises NoSuchImageError, UsageError.
    """
    with records_lock(engine.paths, exclusive=True):
        found = store.find(engine.paths, image)
        records = {record["name"]: record for record in store.same_image(engine.paths, found["id"]) if record["name"]}
        wanted = [normalize(name) for name in names] if names else list(records)
        for name in wanted:
            if name not in records:
                known = f"its names: {', '.join(records)}" if records else "it has none"
                raise NoSuchImageError(f"{name}: tag not known for {image}", known)
        for name in dict.fromkeys(wanted):
            store.drop_locked(engine.paths, records[name])
            events.emit(engine.paths, "image", "untag", found["id"], name)
    return wanted
