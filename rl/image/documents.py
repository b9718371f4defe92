"""Manifests and image configs, read strictly: what comes from outside is checked before it is believed.

Called wherever an image enters the store (pull, load, import, commit): a document that breaks the
specification is refused there, so that the rest may rely on records.

Source: OCI image specification ("Image Manifest", "Image Index", "Image Configuration"); the Docker
image manifest, version 2, schema 2.
"""

from __future__ import annotations

from rl.config.jsonio import loads
from rl.errors import VerificationError
from rl.image.reference import is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
#: What the annotations of a layer begin with that are about its bytes: they go when it is compressed anew.
BYTE_ANNOTATIONS = ("io.github.containers.zstd-chunked.", "containerd.io/snapshot/stargz/")

#: More layers than any builder makes (overlayfs itself ends at 500).
MAX_LAYERS = 1000

_HINT = "the image is broken: ask who made it, or build it again"


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in *data*. Raises VerificationError naming *what*."""
    try:
        document = loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{what} is not JSON: {error}", _HINT) from None
    if not isinstance(document, dict):
        raise VerificationError(f"{what} is not a JSON object", _HINT)
    return document


def parse_manifest(data: bytes, what: str) -> dict[str, Any]:
    """An image manifest with valid descriptors of its config and its layers. Raises VerificationError."""
    document = parse_document(data, what)
    kind = media_type(document)
    if kind not in MANIFESTS:
        raise VerificationError(f"{what} is not an image manifest but {kind or 'of no known type'}", _HINT)
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise VerificationError(f"{what} has no list of layers, or more than {MAX_LAYERS}", _HINT)
    check_descriptor(document.get("config"), f"{what}: its config")
    for number, layer in enumerate(layers):
        check_descriptor(layer, f"{what}: layer {number + 1}")
    return document


def parse_index(data: bytes, what: str) -> dict[str, Any]:
    """An image index or manifest list with valid descriptors. Raises VerificationError."""
    document = parse_document(data, what)
    manifests = document.get("manifests")
    if not isinstance(manifests, list):
        raise VerificationError(f"{what} has no list of manifests", _HINT)
    for number, descriptor in enumerate(manifests):
        check_descriptor(descriptor, f"{what}: manifest {number + 1}")
    return document


def parse_config(data: bytes, what: str, layers: int = -1) -> dict[str, Any]:
    """An image configuration; *layers*: how many its manifest lists (-1: unknown). Raises VerificationError."""
    document = parse_document(data, what)
    rootfs = document.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or not all(isinstance(i, str) and is_digest(i) for i in ids):
        raise VerificationError(f"{what} has no valid rootfs.diff_ids", _HINT)
    if layers >= 0 and len(ids) != layers:
        raise VerificationError(f"{what} has {len(ids)} diff_ids, but its manifest lists {layers} layers", _HINT)
    config = document.get("config")
    if config is None:
        document["config"] = {}
    elif not isinstance(config, dict):
        raise VerificationError(f"{what}: its config is not an object", _HINT)
    _check_types(document, what)
    return document


#: Members of `config` and their types: the runtime reads them without looking again.
_LISTS = ("Env", "Entrypoint", "Cmd", "OnBuild", "Shell")
_OBJECTS = ("ExposedPorts", "Volumes", "Labels")
_STRINGS = ("User", "WorkingDir", "StopSignal")


def _check_types(document: dict[str, Any], what: str) -> None:
    config = document["config"]
    for key in _LISTS:
        value = config.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise VerificationError(f"{what}: {key} is not a list of strings", _HINT)
    for key in _OBJECTS:
        if not _none_or(config.get(key), dict):
            raise VerificationError(f"{what}: {key} is not an object", _HINT)
    if not all(isinstance(value, str) for value in (config.get("Labels") or {}).values()):
        raise VerificationError(f"{what}: a label is not a string", _HINT)
    for key in _STRINGS:
        if not _none_or(config.get(key), str):
            raise VerificationError(f"{what}: {key} is not a string", _HINT)
    for key in ("created", "author", "architecture", "os", "variant", "comment"):
        if not _none_or(document.get(key), str):
            raise VerificationError(f"{what}: {key} is not a string", _HINT)
    history = document.get("history")
    if not _none_or(history, list) or not all(isinstance(item, dict) for item in history or []):
        raise VerificationError(f"{what}: history is not a list of objects", _HINT)


def _none_or(value: Any, kind: type) -> bool:
    """Go writes null for what is empty."""
    return value is None or isinstance(value, kind)


def check_descriptor(descriptor: Any, what: str) -> None:
    """Raises VerificationError unless *descriptor* has a digest and a size."""
    if not isinstance(descriptor, dict):
        raise VerificationError(f"{what} is missing", _HINT)
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise VerificationError(f"{what} has no valid digest: {digest!r}", _HINT)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise VerificationError(f"{what} has no valid size: {size!r}", _HINT)
    if not _none_or(descriptor.get("mediaType"), str):
        raise VerificationError(f"{what} has no valid media type", _HINT)


def media_type(document: dict[str, Any]) -> str:
    """What a manifest or an index is; OCI ones need not say it."""
    kind = document.get("mediaType")
    if isinstance(kind, str) and kind:
        return kind
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    if isinstance(document.get("layers"), list):
        return OCI_MANIFEST
    return ""
