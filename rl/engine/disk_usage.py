"""rl system df: what images, containers and volumes take on the disk, and what of it could be had back.

An image takes its unpacked layers and the blobs they came from, and both may be shared with others: what counts is
which images name an item. Sizes of layers are those of their records, so nothing of an image is walked; what containers
and volumes hold is measured (inside the user namespace), as it changes all the time.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.engine import containers, ps
from rl.engine.collect import blobs_of, unpacked_layers
from rl.engine.volume import records as volumes
from rl.errors import CorruptRecordError, RlError
from rl.image import store
from rl.image.content import ContentStore
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Item = tuple[str, str]  # ("layer" or "blob", digest)


def df(engine: Engine) -> dict[str, Any]:
    """``Images``, ``Containers``, ``Volumes``: one document each; ``Summary``: Podman's rows, and Docker's for builds
    where there are some; all sizes in bytes. What a build has made a layer of counts as one.

    A damaged record is told through ``engine.warn``; what it names counts as used.
    """
    configs, states = _containers(engine)
    images, total, needed = _images(engine, configs)
    measured = _measure(engine, configs)
    found_containers = _container_rows(configs, states, measured)
    found_volumes = _volume_rows(engine, configs, measured)
    found = {
        "Images": images, "Containers": found_containers, "Volumes": found_volumes,
        "Summary": [
            _summary("Images", len(images), sum(row["Containers"] > 0 for row in images), total, total - needed),
            _summary(
                "Containers", len(configs), sum(row["Status"] in containers.LIVE for row in found_containers),
                sum(row["RWSize"] for row in found_containers),
                sum(row["RWSize"] for row in found_containers if row["Status"] not in containers.LIVE),
            ),
            _summary(
                "Local Volumes", len(found_volumes), sum(row["Links"] > 0 for row in found_volumes),
                sum(row["Size"] for row in found_volumes), sum(row["ReclaimableSize"] for row in found_volumes),
            ),
        ],
    }  # fmt: skip
    if os.path.isdir(f"{engine.paths.data}/build"):
        from rl.engine.build import cache

        sizes = cache.sizes(engine.paths)
        whole = sum(sizes.values())
        found["Summary"].append(_summary("Build Cache", len(sizes), 0, whole, whole))
    return found


def _summary(kind: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, Any]:
    return {"Type": kind, "Total": total, "Active": active, "RawSize": size, "RawReclaimable": reclaimable}


def _containers(engine: Engine) -> tuple[list[ContainerConfig], dict[str, str]]:
    configs: list[ContainerConfig] = []
    states: dict[str, str] = {}
    for container_id in containers.ids(engine.paths):
        try:
            config = containers.read_config(engine.paths, container_id)
            states[container_id] = containers.read_state(engine.paths, container_id).get("status", "created")
            configs.append(config)
        except CorruptRecordError as error:
            engine.warn(f"container {container_id[:12]}: {error.message} (hint: {error.hint})")
        except RlError:
            continue  # removed meanwhile
    return sorted(configs, key=lambda config: config["created"]), states


# images


def image_sizes(paths: Paths) -> dict[Item, int]:
    """Bytes of every layer and blob that is here, whether an image names it or not.

    A layer that was copied for other ids (rl.storage.idmap) counts once for each whole copy.
    """
    sizes: dict[Item, int] = {}
    for name in unpacked_layers(paths):
        directory = f"{paths.layers}/{name}"
        try:
            size = int(read_json(f"{directory}/layer.json")["size"])
            trees = [tree for tree in os.listdir(directory) if tree.startswith("fs") and "+" not in tree]
        except (OSError, ValueError, KeyError, TypeError):
            size, trees = 0, []
        sizes["layer", name] = size * max(1, len(trees))
    content = ContentStore(paths)
    for digest in content.digests():
        try:
            sizes["blob", digest[7:]] = os.stat(content.path(digest)).st_size
        except OSError:
            continue
    return sizes


def items_of(paths: Paths, record: ImageRecord) -> set[Item]:
    """The layers and blobs of an image. Raises CorruptRecordError."""
    found: set[Item] = {("layer", diff_id.partition(":")[2]) for diff_id in record["layers"]}
    return found | {("blob", digest[7:]) for digest in blobs_of(paths, record)}


def _images(engine: Engine, configs: list[ContainerConfig]) -> tuple[list[dict[str, Any]], int, int]:
    """(a document per image, bytes of all, bytes of what containers need)."""
    sizes = image_sizes(engine.paths)
    by_id: dict[str, list[ImageRecord]] = {}
    records, errors = store.list_images(engine.paths)
    for record in records:
        by_id.setdefault(record["id"], []).append(record)
    items: dict[str, set[Item]] = {}
    for image_id, group in by_id.items():
        items[image_id] = set()
        for record in group:
            try:
                items[image_id] |= items_of(engine.paths, record)
            except CorruptRecordError as error:
                errors.append(error)
    for damage in errors:
        engine.warn(f"{damage.message} (hint: {damage.hint})")
    users: dict[Item, int] = {}
    for found in items.values():
        for item in found:
            users[item] = users.get(item, 0) + 1
    links: dict[str, int] = {}
    needed: set[Item] = set()
    for config in configs:
        image_id = config.get("image_id", "")
        links[image_id] = links.get(image_id, 0) + 1
        needed |= items.get(image_id, set())
        needed |= {("layer", layer.partition(":")[2]) for layer in config.get("layers", [])}
    documents = []
    for image_id, group in by_id.items():
        own = [(item, sizes.get(item, 0)) for item in items[image_id]]
        documents.append({
            "ImageID": image_id, "Names": sorted(record["name"] for record in group if record["name"]),
            "Created": group[0]["created"], "Containers": links.get(image_id, 0), "Size": sum(size for _, size in own),
            "SharedSize": sum(size for item, size in own if users[item] > 1),
            "UniqueSize": sum(size for item, size in own if users[item] == 1),
        })  # fmt: skip
    documents.sort(key=lambda document: (document["Names"] or [""], document["ImageID"]))
    return documents, sum(sizes.values()), sum(sizes.get(item, 0) for item in needed)


# containers and volumes


def _measure(engine: Engine, configs: list[ContainerConfig]) -> dict[str, int]:
    """Bytes in the writable layer of each container (by id) and in each volume (by name)."""
    names = volumes.names(engine.paths)
    paths = [f"{engine.paths.container(config['id'])}/upper" for config in configs]
    paths += [volumes.data(engine.paths, name) for name in names]
    sizes = userns.call(engine.paths.run, ps.written, paths) if paths else []
    return dict(zip([config["id"] for config in configs] + names, sizes, strict=True))


def _container_rows(
    configs: list[ContainerConfig], states: dict[str, str], measured: dict[str, int]
) -> list[dict[str, Any]]:
    return [
        {
            "ContainerID": config["id"], "Image": config.get("image_id", ""), "Command": config.get("arguments", []),
            "LocalVolumes": len(volumes.of_container(config)), "RWSize": measured[config["id"]],
            "Created": config["created"], "Status": states[config["id"]], "Names": config["name"],
        }
        for config in configs
    ]  # fmt: skip


def _volume_rows(engine: Engine, configs: list[ContainerConfig], measured: dict[str, int]) -> list[dict[str, Any]]:
    links: dict[str, int] = {}
    for config in configs:
        for name in volumes.of_container(config):
            links[name] = links.get(name, 0) + 1
    ids = {config["id"] for config in configs}
    return [
        {"VolumeName": name, "Links": links.get(name, 0), "Size": size, "ReclaimableSize": 0 if name in links else size}
        for name, size in measured.items() if name not in ids
    ]  # fmt: skip
