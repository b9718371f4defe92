"""rl images: what is in the image store, with Podman's JSON names, filters and order.

The plain table needs the records alone: one small file per name, no manifest and no config is read.
"""

from __future__ import annotations

import os
import time

from rl.errors import RlError, UsageError
from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Image = dict[str, Any]


def images(
    engine: Engine,
    names: list[str] | None = None,
    *,
    filters: list[str] | None = None,
    all: bool = False,
    sort: str = "created",
    full: bool = True,
) -> list[Image]:
    """One dict per image or manifest list, in Podman's terms (podman-images(1), ``--format json``).

    *names*: only these (names, ids, or patterns of names with ``*`` and ``?``). *filters*: ``key=value``;
    filters with different keys must all hold, of one key any. *all*: intermediate images too. *sort*:
    created (newest first), id, repository, size or tag. Without *full* (the plain table) ParentId, Labels
    and Containers are left out. Records that are damaged are reported through ``engine.warn``.
    Raises UsageError.
    """
    if sort not in _SORTS:
        raise UsageError(
            f'images: "{sort}" is not a valid field for sorting', f"choose from {', '.join(sorted(_SORTS))}"
        )
    records, errors = store.list_images(engine.paths)
    for error in errors:
        engine.warn(f"{error.message} ({error.hint})")
    found = _summaries(records)
    if full or filters or not all:
        _complete(engine.paths, found, full or bool(filters), not all or full or bool(filters))
    found += _lists(engine.paths)
    if not all:
        found = [image for image in found if image["Names"] or not image["_intermediate"]]
    if names and "" in names:
        raise UsageError("images: an empty string is not an image", "leave it out to see all images")
    if names or filters:
        from rl.engine.image_filters import filtered, named

        found = filtered(engine, named(found, names or []), filters or [])
    for image in found:
        for key in ("_digests", "_intermediate", "_layers"):
            del image[key]
    return _SORTS[sort](found)


def rows(images: list[Image], sort: str = "created") -> list[tuple[Image, str, str]]:
    """The lines of the table: (image, repository, tag), one per name, ``<none>`` for what there is not.

    *sort* as in :func:`images`: by repository or tag the lines are in order, not just the images.
    """
    lines = []
    for image in images:
        for name in image["Names"]:
            repository, colon, tag = split(name)
            lines.append((image, repository, tag if colon else "<none>"))
        if not image["Names"]:
            lines.append((image, "<none>", "<none>"))
    if sort == "repository":
        lines.sort(key=lambda line: line[1:])
    elif sort == "tag":
        lines.sort(key=lambda line: line[2])
    return lines


def split(name: str) -> tuple[str, str, str]:
    """Repository, ":" or "", and tag of a full name."""
    if "@" in name:
        return name.partition("@")[0], "", ""
    return name.rpartition(":")


def _summaries(records: list[ImageRecord]) -> list[Image]:
    """One summary per image; its names in the order of the alphabet."""
    by_id: dict[str, list[ImageRecord]] = {}
    for record in records:
        by_id.setdefault(record["id"], []).append(record)
    return [_summary(sorted(group, key=lambda r: r["name"])) for group in by_id.values()]


def _summary(group: list[ImageRecord]) -> Image:
    first = group[0]
    names = [record["name"] for record in group if record["name"]]
    tagged = [name for name in names if "@" not in name]
    history = [name for record in group for name in record.get("history", [])]
    digests = [digest for record in group for digest in record.get("digests", [])]
    created, created_at = parse_time(first["created"])
    return {
        "Id": first["id"],
        "ParentId": "",
        "RepoTags": tagged,
        "RepoDigests": list(dict.fromkeys(digests)),
        "Size": first["size"],
        "SharedSize": 0,
        "VirtualSize": first["size"],
        "Labels": None,
        "Containers": 0,
        "Names": names,
        "Digest": first["manifest"],
        "_digests": list(dict.fromkeys(d for record in group for d in store.all_digests(record))),
        "History": list(dict.fromkeys([*names, *history])),
        "Created": created,
        "CreatedAt": created_at,
        "Dangling": not names,
        "_intermediate": False,
        "ReadOnly": False,
        "_layers": first["layers"],
    }


def _lists(paths: Paths) -> list[Image]:
    """Manifest lists; ``IsManifestList`` is true, as in Podman."""
    if not os.path.isdir(f"{paths.data}/manifests"):
        return []
    from hashlib import sha256

    from rl.config.jsonio import dumps
    from rl.engine.manifest import records

    found = []
    for name in records.names(paths):
        try:
            record = records.read(paths, name)
        except RlError:  # removed meanwhile, or damaged: `rl manifest inspect` tells
            continue
        data = dumps(records.index(record)).encode()
        digest = f"sha256:{sha256(data).hexdigest()}"
        image = _summary([{
            "id": record["id"], "name": name, "manifest": digest, "created": record.get("created", ""),
            "size": len(data), "layers": [], "digests": [f"{split(name)[0]}@{digest}"],
        }])  # fmt: skip
        found.append({**image, "IsManifestList": True})
    return found


def parse_time(text: str) -> tuple[int, str]:
    """(seconds since 1970, RFC 3339 in UTC without the fraction) of an image's ``created``; 1970 for nonsense."""
    try:
        numbers = [int(part) for part in (text[0:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19])]
        rest = text[19:].lstrip(".0123456789")
        offset = 0
        if rest and rest[0] in "+-":
            offset = (int(rest[1:3]) * 60 + int(rest[4:6])) * (60 if rest[0] == "+" else -60)
        seconds = _seconds(*numbers) - offset
        return seconds, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, IndexError, OverflowError):
        return 0, "1970-01-01T00:00:00Z"


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Seconds since 1970, UTC (calendar.timegm without its imports)."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError("not a date")
    years = year - (month <= 2)
    shifted = (month + 9) % 12  # the year begins in March: the leap day is its last
    days = 365 * years + years // 4 - years // 100 + years // 400 + (153 * shifted + 2) // 5 + day - 719469
    return ((days * 24 + hour) * 60 + minute) * 60 + second


# what costs reading more than the records

def _complete(paths: Paths, found: list[Image], details: bool, families: bool) -> None:
    """Fill in labels, parents, containers; only what was asked for."""
    if families:
        _families(paths, found, details)
    if not details:
        return
    used: dict[str, int] = {}
    for container in _containers(paths):
        used[container] = used.get(container, 0) + 1
    for image in found:
        image["Containers"] = used.get(image["Id"], 0)
        image["Labels"] = (_config(paths, image).get("config") or {}).get("Labels")


def _config(paths: Paths, image: Image) -> dict[str, Any]:
    from rl.errors import CorruptRecordError

    try:
        return store.config(paths, {"id": image["Id"], "name": image["Names"][0] if image["Names"] else ""})
    except CorruptRecordError:
        return {}


def _containers(paths: Paths) -> list[str]:
    """The image ids of all containers, one entry each."""
    from rl.config.jsonio import read_json

    found = []
    try:
        names = os.listdir(paths.containers)
    except FileNotFoundError:
        return []
    for name in names:
        try:
            found.append(read_json(f"{paths.containers}/{name}/config.json")["image_id"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _families(paths: Paths, found: list[Image], everyone: bool) -> None:
    """Parents and which images are intermediate: nameless and the parent of another.

    Configs are read only of images that may be parent and child by their layers.
    """
    by_layers: dict[tuple[str, ...], list[Image]] = {}
    for image in found:
        by_layers.setdefault(tuple(image["_layers"]), []).append(image)
    histories: dict[str, list[Any]] = {}

    def history(image: Image) -> list[Any]:
        if image["Id"] not in histories:
            histories[image["Id"]] = _config(paths, image).get("history") or []
        return histories[image["Id"]]

    for child in found:
        layers = tuple(child["_layers"])
        near = [other for other in by_layers[layers] if other is not child] + by_layers.get(layers[:-1], [])
        for parent in near:
            if parent is child or (parent["Names"] and not everyone):
                continue
            if history(parent) and history(parent) == history(child)[:-1]:
                child["ParentId"] = parent["Id"]
                parent["_intermediate"] = not parent["Names"]
    for image in found:
        image["Dangling"] = not image["Names"] and not image["_intermediate"]


# order

def _by_created(found: list[Image]) -> list[Image]:
    return sorted(found, key=lambda image: (-image["Created"], image["Names"] or [""]))


def _by_id(found: list[Image]) -> list[Image]:
    return sorted(found, key=lambda image: image["Id"])


def _by_size(found: list[Image]) -> list[Image]:
    return sorted(found, key=lambda image: (image["Size"], image["Id"]))


def _by_repository(found: list[Image]) -> list[Image]:
    return sorted(found, key=lambda image: image["Names"] or ["<none>"])


def _by_tag(found: list[Image]) -> list[Image]:
    return sorted(found, key=lambda image: [split(name)[2] for name in image["Names"]] or ["<none>"])


_SORTS: dict[str, Callable[[list[Image]], list[Image]]] = {
    "created": _by_created,
    "id": _by_id,
    "repository": _by_repository,
    "size": _by_size,
    "tag": _by_tag,
}
