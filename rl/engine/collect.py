"""Garbage: blobs and layers that no image and no container uses. Called by rmi, pull, load, prune.

Mark and sweep, no counters that could be wrong: what the records and the containers name stays, all
else goes. rl/image/content.py tells how the two locks keep this away from images that are arriving
and from containers that are being made.
"""

from __future__ import annotations

import os
import time

from rl.config.jsonio import read_json
from rl.engine import leftovers
from rl.errors import CorruptRecordError
from rl.image import store
from rl.image.content import ContentStore, Lock, records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: A broken download may be resumed for this long.
_PARTIAL_SECONDS = 24 * 3600


def collect(engine: Engine, removed: list[ImageRecord] | None = None) -> int:
    """Free what nothing uses; the bytes of blobs freed (layers are measured by who asks for them).

    While another process adds an image nothing is freed: that process does it when it has finished
    (:func:`collect_pending`). *removed*: the images that were just removed; where a damaged record
    hides what it uses, only they are freed and nothing else.
    """
    mark = f"{engine.paths.content}/garbage"
    try:
        lock = Lock(f"{engine.paths.content}/lock", exclusive=True, wait=False)
    except BlockingIOError:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return 0
    with lock:
        try:
            os.unlink(mark)
        except FileNotFoundError:
            pass
        with records_lock(engine.paths, exclusive=True):
            freed = _sweep(engine, removed)
    from rl.storage import trash

    leftovers.sweep(engine.paths)
    trash.empty(engine.paths)  # may take long: no lock is held any more
    return freed


def collect_pending(engine: Engine) -> None:
    """Who added an image calls this after it released its lock: the collection that had to wait for it."""
    if os.path.exists(f"{engine.paths.content}/garbage"):
        collect(engine)
    else:
        leftovers.sweep(engine.paths)


def discard_later(paths: Paths) -> None:
    """Remember that there is garbage: a load or a pull that failed left blobs."""
    os.close(os.open(f"{paths.content}/garbage", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _sweep(engine: Engine, removed: list[ImageRecord] | None) -> int:
    paths = engine.paths
    content = ContentStore(paths)
    records, errors = store.list_images(paths)
    blobs: set[str] = set()
    layers: set[str] = set()
    images: set[str] = set()
    for record in records:
        try:
            blobs |= blobs_of(paths, record)
        except CorruptRecordError as error:
            errors.append(error)
        layers.update(record["layers"])
        images.add(record["id"])
    in_use, damaged = container_layers(paths, images)
    layers |= in_use
    if os.path.isdir(f"{paths.data}/manifests"):
        from rl.engine.manifest import records as lists

        blobs |= lists.blobs(paths)
    if os.path.isdir(f"{paths.data}/artifacts"):
        from rl.engine import artifacts

        blobs |= artifacts.blobs(paths)
    if os.path.isdir(f"{paths.data}/build"):
        from rl.engine.build import cache

        if removed is None:
            cache.sweep(paths)
        of_builds = cache.used(paths)
        layers |= of_builds[0]
        blobs |= of_builds[1]
    for unreadable in errors + damaged:
        engine.warn(f"{unreadable.message}: what it may use is not freed")
    candidates, unpacked = content.digests(), unpacked_layers(paths)
    if errors:
        gone = removed or []
        allowed = {blob for record in gone for blob in _known_blobs(paths, record)}
        candidates = [blob for blob in candidates if blob in allowed]
        hexes = {diff_id[7:] for record in gone for diff_id in record["layers"]}
        unpacked = [name for name in unpacked if name in hexes]
    freed = sum(content.remove(blob) for blob in candidates if blob not in blobs)
    freed += content.sweep_partial(time.time() - _PARTIAL_SECONDS)
    if not damaged:  # a container whose record is unreadable may stand on any layer
        if not errors:
            _remove_trees(paths, images)
        keep = {diff_id.partition(":")[2] for diff_id in layers}
        _remove_layers(paths, [f"sha256:{name}" for name in unpacked if name not in keep])
    return freed


def blobs_of(paths: Paths, record: ImageRecord) -> set[str]:
    """Every blob the image consists of. Raises CorruptRecordError where its manifest cannot be read."""
    found = {*store.all_digests(record), f"sha256:{record['id']}"}
    found.update(layer["digest"] for layer in store.manifest(paths, record)["layers"])
    return found


def _known_blobs(paths: Paths, record: ImageRecord) -> set[str]:
    try:
        return blobs_of(paths, record)
    except CorruptRecordError:
        return {*store.all_digests(record), f"sha256:{record['id']}"}


def container_layers(paths: Paths, images: set[str] | None = None) -> tuple[set[str], list[CorruptRecordError]]:
    """The diff ids under all containers, and the records that do not tell; their images' ids go to *images*."""
    found: set[str] = set()
    errors = []
    try:
        names = os.listdir(paths.containers)
    except FileNotFoundError:
        names = []
    for name in names:
        path = f"{paths.containers}/{name}/config.json"
        try:
            config = read_json(path)
            for used in (config, *(spec for spec in config.get("mounts", []) if spec["type"] == "image")):
                found.update(used.get("layers") or [])
                if images is not None:
                    images.add(used.get("image_id", ""))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            errors.append(CorruptRecordError(f"read {path}: {error}"))
    return found, errors


def unpacked_layers(paths: Paths) -> list[str]:
    """The hex digests of the layers that are unpacked here."""
    from rl.storage import layers

    return layers.all_layers(paths)


def _remove_trees(paths: Paths, images: set[str]) -> None:
    """What was made of images for other owners (:mod:`rl.storage.metatree`), and is no image any more."""
    from rl.storage import metatree, trash

    for image_id in metatree.image_ids(paths):
        if image_id not in images:
            trash.discard(paths, f"{paths.data}/mapped/{image_id}")


def _remove_layers(paths: Paths, diff_ids: list[str]) -> None:
    from rl.storage import trash

    for diff_id in diff_ids:
        trash.discard(paths, f"{paths.layers}/{diff_id[7:]}")
