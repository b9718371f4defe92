"""What the tests of the image store make their images of."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from rl.config.model import ImageRecord
from rl.config.paths import Paths
from rl.image import store
from rl.image.content import ContentStore

MakeImage = Callable[..., ImageRecord]


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A layer with *files*."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def make(paths: Paths, name: str, *layers: bytes, config: dict[str, Any] | None = None, **members: Any) -> ImageRecord:
    """Record an image of *layers* (default: one of its own), not unpacked."""
    content = ContentStore(paths)
    blobs = [content.put_bytes(layer) for layer in layers or (layer_tar({"name": name.encode()}),)]
    document = {
        "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": blobs}, **members,
    }  # fmt: skip
    data = json.dumps(document).encode()
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": content.put_bytes(data), "size": len(data)},
        "layers": [{"digest": blob, "size": content.size(blob)} for blob in blobs],
    }  # fmt: skip
    return store.add(paths, name, content.put_bytes(json.dumps(manifest).encode()))
