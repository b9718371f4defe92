"""rl history: how an image was made, step by step, the newest first (podman-history(1))."""

from __future__ import annotations

from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

MISSING = "<missing>"


def history(engine: Engine, name: str) -> list[dict[str, Any]]:
    """The steps of image *name*: id, created, CreatedBy, size (bytes of its layer), comment, tags.

    A step whose layers are those of an image that is here has its id and names, any other one "<missing>".
    Raises NoSuchImageError, AmbiguousNameError, CorruptRecordError, UsageError.
    """
    paths = engine.paths
    record = store.find(paths, name)
    config = store.config(paths, record)
    sizes = _sizes(paths, record)
    records = store.list_images(paths)[0]
    names = _names(records)
    owners = _owners(records, record["id"])
    steps: list[dict[str, Any]] = []
    depth = len(record["layers"])
    entries = [entry for entry in config.get("history") or [] if isinstance(entry, dict)]
    for number, entry in enumerate(reversed(entries)):
        layered = not entry.get("empty_layer") and depth > 0
        owner = owners.get(tuple(record["layers"][:depth]), MISSING) if number else record["id"]
        steps.append({
            "id": owner,
            "created": entry.get("created") or "0001-01-01T00:00:00Z",
            "CreatedBy": entry.get("created_by") or "",
            "tags": names.get(owner, []),
            "size": sizes[depth - 1] if layered else 0,
            "comment": entry.get("comment") or "",
        })
        depth -= layered
    return steps


def _names(records: list[ImageRecord]) -> dict[str, list[str]]:
    """The names of each image, in the order of the alphabet."""
    found: dict[str, list[str]] = {}
    for record in sorted(records, key=lambda record: record["name"]):
        if record["name"]:
            found.setdefault(record["id"], []).append(record["name"])
    return found


def _owners(records: list[ImageRecord], wanted: str) -> dict[tuple[str, ...], str]:
    """Which image has which layers; the one that was asked for before others with the same."""
    found: dict[tuple[str, ...], str] = {}
    for record in sorted(records, key=lambda record: (record["id"] != wanted, record["id"])):
        if record["layers"]:
            found.setdefault(tuple(record["layers"]), record["id"])
    return found


def _sizes(paths: Paths, record: ImageRecord) -> list[int]:
    """Bytes of each layer: unpacked, or of the blob where it is not unpacked."""
    blobs = store.manifest(paths, record)["layers"]
    found = []
    for diff_id, blob in zip(record["layers"], blobs, strict=True):
        size = store.unpacked_size(paths, [diff_id])
        found.append(blob["size"] if size < 0 else size)
    return found
