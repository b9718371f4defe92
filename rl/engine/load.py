"""rl load: images from an archive, a directory or standard input. The steps: read, unpack, record."""

from __future__ import annotations

from rl.engine import events
from rl.engine.collect import collect_pending, discard_later
from rl.image.archive import LoadedImage, read
from rl.image.content import ContentStore, adding
from rl.image.store import add

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.image.containersstorage import Place

    Progress = Callable[[str, int, int], None]  # diff id, bytes of the blob done, bytes of the blob


def load(
    engine: Engine,
    source: str | int,
    *,
    platform: tuple[str, str, str] | None = None,
    which: str = "",
    on_progress: Progress | None = None,
) -> list[str]:
    """The images in *source* (a path, or a descriptor to read from): their full names.

    An image without a name is returned as ``sha256:<id>``. Reads docker-archive, oci-archive, OCI
    layouts and ``dir:`` directories, compressed or not. *which*: one of several, see
    rl.image.archive.read. Nothing is recorded unless all images are whole.
    Raises VerificationError, NotFoundError, RlError.
    """
    return _take(engine, lambda: read(engine.paths, source, platform, which), on_progress)


def load_storage(engine: Engine, text: str, *, on_progress: Progress | None = None) -> list[str]:
    """The image that ``containers-storage:…`` names in a store of Podman's; as :func:`load`."""
    import os

    from rl.engine.rootaccess import inside
    from rl.image.archive import Layer
    from rl.image.containersstorage import Place

    place = Place(text, os.path.expanduser("~"))

    def images() -> list[LoadedImage]:
        found = inside(engine.paths, _read_storage, engine.paths, place)
        return [
            LoadedImage(names, manifest, "", image_id, [Layer(*layer) for layer in layers])
            for names, manifest, image_id, layers in found
        ]

    return _take(engine, images, on_progress)


def _read_storage(paths: Paths, place: Place) -> list[list[Any]]:
    """In the user namespace."""
    from rl.image.containersstorage import read as read_storage

    return [
        [image.names, image.manifest, image.image_id,
         [[layer.digest, layer.media_type, layer.diff_id] for layer in image.layers]]
        for image in read_storage(paths, place)
    ]


def _take(engine: Engine, images_of: Callable[[], list[LoadedImage]], on_progress: Progress | None) -> list[str]:
    """Read, unpack, record; nothing is recorded unless all images are whole."""
    try:
        with adding(engine.paths):
            # Whatever happens now, there may be blobs left that no image uses.
            discard_later(engine.paths)
            images = images_of()
            unpack(engine, [layer for image in images for layer in image.layers], on_progress)
            return [name for image in images for name in _record(engine, image)]
    finally:
        collect_pending(engine)


def unpack(engine: Engine, layers: list[Any], on_progress: Progress | None = None) -> None:
    """Unpack every layer (``digest``, ``media_type``, ``diff_id``) that is not unpacked yet, side by side."""
    from rl.storage.unpack import Unpacker

    content = ContentStore(engine.paths)
    unique = {layer.diff_id: layer for layer in layers}
    if not unique:
        return
    with Unpacker(engine.paths, on_progress=on_progress) as unpacker:
        for layer in unique.values():
            unpacker.submit(content.path(layer.digest), layer.diff_id, layer.media_type)
        unpacker.results()


def _record(engine: Engine, image: LoadedImage) -> list[str]:
    for name in image.names or [""]:
        record = add(engine.paths, name, image.manifest, image.index)
        events.emit(engine.paths, "image", "loadfromarchive", record["id"], name)
    return image.names or [f"sha256:{image.image_id}"]
