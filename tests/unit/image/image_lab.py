"""What the tests of images make their images of."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from hashlib import sha256

from rl.config.model import ImageRecord

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


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


MakeImage = Callable[..., ImageRecord]
