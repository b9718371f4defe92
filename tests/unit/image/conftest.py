"""Images made from nothing, in a state directory of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image_lab import MANIFEST, MakeImage

from rl.config.model import ImageRecord
from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.image import store
from rl.image.content import ContentStore

@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    found.ensure()
    yield found
    # Files of subordinate ids: pytest could not remove them.
    from rl.storage import trash

    trash.discard(found, found.layers)
    trash.empty(found)


@pytest.fixture
def engine(paths: Paths) -> Engine:
    warnings: list[str] = []
    made = Engine(paths, warn=warnings.append)
    made.options["warnings"] = warnings
    return made


@pytest.fixture
def make_image(paths: Paths) -> MakeImage:
    """make_image(name, *layers, config=…, history=…): layers are bytes; what is recorded is returned."""

    def make(name: str, *layers: bytes, config: dict[str, Any] | None = None, **members: Any) -> ImageRecord:
        content = ContentStore(paths)
        blobs = [content.put_bytes(layer) for layer in layers or (name.encode(),)]
        document = {
            "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": blobs}, **members,
        }
        data = json.dumps(document).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"digest": content.put_bytes(data), "size": len(data)},
            "layers": [{"digest": blob, "size": content.size(blob)} for blob in blobs],
        }
        return store.add(paths, name, content.put_bytes(json.dumps(manifest).encode()))

    return make
