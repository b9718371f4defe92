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
    owners = _owners(paths, record)
    steps: list[dict[str, Any]] = []
    depth = len(record["layers"])
    entries = [entry for entry in config.get("history") or [] if isinstance(entry, dict)]
    for number, entry in enumerate(reversed(entries)):
        layered = not entry.get("empty_layer") and depth > 0
        owner, tags = owners.get(tuple(record["layers"][:depth]), (MISSING, []))
        if number == 0:
            owner, tags = record["id"], _names(paths, record["id"])
        steps.append({
            "id": owner,
            "created": entry.get("created") or "0001-01-01T00:00:00Z",
            "CreatedBy": entry.get("created_by") or "",
            "tags": tags,
            "size": sizes[depth - 1] if layered else 0,
            "comment": entry.get("comment") or "",
        })
        depth -= layered
    return steps


def _names(paths: Paths, image_id: str) -> list[str]:
    return [other["name"] for other in store.same_image(paths, image_id) if other["name"]]


def _owners(paths: Paths, record: ImageRecord) -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """Which image of the store has which layers; the one that was asked for before others with the same."""
    found: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    others = sorted(store.list_images(paths)[0], key=lambda other: (other["id"] != record["id"], other["id"]))
    for other in others:
        layers = tuple(other["layers"])
        if layers and layers not in found:
            found[layers] = (other["id"], _names(paths, other["id"]))
    return found


def _sizes(paths: Paths, record: ImageRecord) -> list[int]:
    """Bytes of each layer: unpacked, or of the blob where it is not unpacked."""
    blobs = store.manifest(paths, record)["layers"]
    found = []
    for diff_id, blob in zip(record["layers"], blobs, strict=True):
        size = store.unpacked_size(paths, [diff_id])
        found.append(blob["size"] if size < 0 else size)
    return found
