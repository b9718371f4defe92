"""rl tag: give an image more names. Called by the command line and `rl save`, `rl import`."""

from __future__ import annotations

from rl.engine import events
from rl.errors import UsageError
from rl.image import store
from rl.image.content import records_lock
from rl.image.reference import normalize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.engine.context import Engine


def tag(engine: Engine, image: str, names: list[str]) -> None:
    """Give *image* every name of *names*; a short one gets ``localhost/``, one without a tag ``:latest``.

    A name that another image has moves; that image stays, without it. Nothing is done unless all names
    are valid. Raises NoSuchImageError, AmbiguousNameError, UsageError.
    """
    if not names:
        raise UsageError(f"tag {image}: no new name", "rl tag IMAGE NAME [NAME…]")
    targets = [target_name(name) for name in names]
    with records_lock(engine.paths, exclusive=True):
        found = store.find(engine.paths, image)
        for target in targets:
            store.put_locked(engine.paths, renamed(found, target))
            events.emit(engine.paths, "image", "tag", found["id"], target)


def target_name(name: str) -> str:
    """The full name to store; UsageError for a digest, which cannot be given."""
    if "@" in name:
        raise UsageError(f"tag {name}: a name with a digest cannot be given to an image", "use name:tag")
    return normalize(name)


def renamed(record: ImageRecord, name: str) -> ImageRecord:
    """The same image under another name, which goes to the front of its history."""
    copy: ImageRecord = dict(record)  # type: ignore[assignment]
    repository = name.rpartition(":")[0]
    digests = [f"{repository}@{digest}" for digest in store.all_digests(record)]
    copy["name"] = name
    copy["digests"] = list(dict.fromkeys([*record.get("digests", []), *digests]))
    copy["history"] = list(dict.fromkeys([name, *record.get("history", [])]))
    return copy
