"""How an image is to be written: the manifest's format and the compression of its layers, wherever it goes.

Called by rl.image.push (registries), rl.image.save (archives and directories) and who fills in what was asked.

Source: OCI image specification, "Image Manifest"; Docker's image manifest, version 2, schema 2.
"""

from __future__ import annotations

from rl.config.jsonio import dumps
from rl.errors import UsageError
from rl.image import documents as d
from rl.image.compress import check_level, family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What --format says, and the media types of manifest, configuration and layers.
FORMATS = {
    "oci": (d.OCI_MANIFEST, d.OCI_CONFIG, d.OCI_LAYER, "+"),
    "v2s2": (d.DOCKER_MANIFEST, d.DOCKER_CONFIG, d.DOCKER_LAYER, "."),
}


class Form:
    """What was asked for.

    ``format``: "" as it is, oci or v2s2. ``compression`` of plain layers (``force``: of all that have another): gzip,
    zstd or zstd:chunked, "": they stay plain; at ``level`` (None: a good one). Raises UsageError for a level that there
    is not.
    """

    __slots__ = ("compression", "force", "format", "level")

    def __init__(self, format: str = "", compression: str = "", level: int | None = None, force: bool = False) -> None:
        self.compression = compression
        self.force = force
        self.format = format
        self.level = level
        check_level(compression or "gzip", level)

    def is_plain(self) -> bool:
        """Whether nothing was asked for."""
        return not (self.format or self.compression or self.force or self.level is not None)

    def compressing(self, kind: str) -> Form:
        """The same, with *kind* where no compression was named."""
        return Form(self.format, self.compression or kind, self.level, self.force)

    def wanted(self, kind: str) -> str:
        """The compression that a layer gets which has *kind* ("": it is plain)."""
        return self.compression if self.compression and (self.force or not kind) else kind

    def format_of(self, manifest: dict[str, Any]) -> str:
        """oci or v2s2: what the image's *manifest* becomes. Raises UsageError where it cannot be what was asked for."""
        zstd = any(family(self.wanted(compression_of(layer))) == "zstd" for layer in manifest["layers"])
        if zstd and self.format == "v2s2":
            raise UsageError("push: Docker's format (v2s2) has no zstd layers", "use --format oci, or gzip by force")
        own = "v2s2" if d.media_type(manifest) == d.DOCKER_MANIFEST else "oci"
        return self.format or ("oci" if zstd else own)


def compression_of(layer: dict[str, Any]) -> str:
    """The compression that a layer's media type tells."""
    kind = str(layer.get("mediaType"))
    return next((name for name in ("gzip", "zstd") if kind.endswith(name)), "")


def written_as(
    data: bytes, manifest: dict[str, Any], layers: list[tuple[dict[str, Any], str]], format: str
) -> tuple[bytes, str]:
    """The manifest in *format*, and its media type: *data* itself where nothing is changed.

    *manifest* is *data* parsed; *layers*: for each of its layers the members that are new (digest, size, annotations
    about them), and its compression.
    """
    kind, config, layer_kind, joint = FORMATS[format]
    written = []
    for descriptor, (members, compression) in zip(manifest["layers"], layers, strict=True):
        suffix = joint + family(compression) if compression else ""
        written.append({**_relabelled(descriptor, members), "mediaType": layer_kind + suffix})
    if written == manifest["layers"] and d.media_type(manifest) == kind:
        return data, kind
    changed = {
        **manifest, "schemaVersion": 2, "mediaType": kind, "config": {**manifest["config"], "mediaType": config},
        "layers": written,
    }  # fmt: skip
    return dumps(changed).encode(), kind


def _relabelled(descriptor: dict[str, Any], members: dict[str, Any]) -> dict[str, Any]:
    """The descriptor with the *members*; annotations that are about other bytes than these go."""
    if members["digest"] == descriptor["digest"]:
        return descriptor
    old = descriptor.get("annotations") or {}
    annotations = {key: value for key, value in old.items() if not key.startswith(d.BYTE_ANNOTATIONS)}
    annotations.update(members.get("annotations", {}))
    written = {**descriptor, **members, "annotations": annotations}
    if not annotations:
        del written["annotations"]
    return written
