"""rl image inspect: everything about an image, as Podman's document (podman-image-inspect(1))."""

from __future__ import annotations

from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.engine.context import Engine

#: What Podman shows of an image's ``config``, where the image has it.
_CONFIG = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "ArgsEscaped",
    "OnBuild", "Healthcheck", "Shell",
)


def image_inspect(engine: Engine, names: list[str]) -> list[dict[str, Any]]:
    """The documents of *names*, in their order.

    Raises NoSuchImageError, AmbiguousNameError, CorruptRecordError, UsageError.
    """
    return [_document(engine, store.find(engine.paths, name)) for name in names]


def _document(engine: Engine, record: ImageRecord) -> dict[str, Any]:
    paths = engine.paths
    group = store.same_image(paths, record["id"])
    image = store.config(paths, record)
    manifest = store.manifest(paths, record)
    config = image.get("config") or {}
    names = [other["name"] for other in group if other["name"]]
    digests = [digest for other in group for digest in other.get("digests", [])]
    history = [name for other in group for name in other.get("history", [])]
    return {
        "Id": record["id"],
        "Digest": record["manifest"],
        "RepoTags": [name for name in names if "@" not in name],
        "RepoDigests": list(dict.fromkeys(digests)),
        "Parent": _parent(engine, record),
        "Comment": image.get("comment") or _last_comment(image),
        "Created": image.get("created") or "1970-01-01T00:00:00Z",
        "Config": {key: config[key] for key in _CONFIG if config.get(key)},
        "Version": image.get("docker_version") or "",
        "Author": image.get("author") or "",
        "Architecture": image.get("architecture") or "",
        "Os": image.get("os") or "",
        **({"Variant": image["variant"]} if image.get("variant") else {}),
        "Size": record["size"],
        "VirtualSize": record["size"],
        "GraphDriver": {"Name": _driver(engine), "Data": _layer_paths(engine, record)},
        "RootFS": {"Type": "layers", "Layers": record["layers"]},
        "Labels": config.get("Labels"),
        "Annotations": manifest.get("annotations") or {},
        "ManifestType": manifest.get("mediaType") or "application/vnd.oci.image.manifest.v1+json",
        "User": config.get("User") or "",
        "History": image.get("history") or [],
        "NamesHistory": list(dict.fromkeys([*history, *names])),
    }


def _last_comment(image: dict[str, Any]) -> str:
    """OCI keeps the comment in the history."""
    history = image.get("history") or []
    return (history[-1].get("comment") or "") if history else ""


def _parent(engine: Engine, record: ImageRecord) -> str:
    from rl.engine.rmi import parent_of

    parent = parent_of(engine.paths, record, store.list_images(engine.paths)[0])
    return parent["id"] if parent else ""


def _driver(engine: Engine) -> str:
    from rl.storage import driver

    return driver.choose(engine.paths, engine.options.get("storage_driver") or "").name


def _layer_paths(engine: Engine, record: ImageRecord) -> dict[str, str]:
    """Where the layers are, as the overlay driver of Podman tells it: the top one, and those below it."""
    from rl.storage import driver, layers

    key = driver.default_key(engine.paths)
    found = [layers.layer_path(engine.paths, diff_id, key) for diff_id in reversed(record["layers"])]
    if not found:
        return {}
    data = {"UpperDir": found[0]}
    if len(found) > 1:
        data["LowerDir"] = ":".join(found[1:])
    return data
