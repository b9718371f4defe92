"""rl gc: free what nothing uses, and with a wish for free space what can be had again, least recently used first.

The order, each only as far as it takes:

1. what nothing uses (rl.engine.collect), the trash, what killed processes left;
2. downloads that were cut off, and would be resumed;
3. the cache of builds and of ``RUN --mount=type=cache``;
4. images with other owners (``mapped/``), which a container of theirs makes again;
5. images without a name that no container uses; with *all* those with names, too.

Called by rl.cli.system.gc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rl.engine.collect import collect
from rl.errors import RlError
from rl.image.content import ContentStore, Lock, records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Act = Callable[[], object]
    Candidates = list[tuple[str, int, Act]]  # what it is, the bytes that it should give, how


class Freed:
    """``items``: what was (or would be) removed, with its bytes; ``free``: bytes that are free now."""

    __slots__ = ("free", "items")

    def __init__(self) -> None:
        self.items: list[tuple[str, int]] = []
        self.free = 0


def gc(engine: Engine, *, keep_free: int = 0, all: bool = False, dry_run: bool = False) -> Freed:
    """Free space; *keep_free*: bytes that are to be free in the end. *dry_run*: only tell.

    Raises RlError where so much cannot be freed.
    """
    paths, report = engine.paths, Freed()
    before = free_space(paths)
    if not dry_run:
        collect(engine)
        gained = max(0, free_space(paths) - before)
        if gained:
            report.items.append(("what nothing uses", gained))
    assumed = 0  # freed by what a dry run only tells
    for kind in (_downloads, _builds, _mapped, _images, _images):  # twice: what was built upon may be free then
        missing = keep_free - free_space(paths) - assumed
        if missing <= 0:
            break
        for what, size, act in kind(engine, all):
            if missing <= 0:
                break
            report.items.append((what, size))
            missing -= size
            if dry_run:
                assumed += size
            else:
                act()
        if not dry_run:
            collect(engine)
    report.free = free_space(paths) + assumed
    if report.free < keep_free:
        hint = "containers, volumes and their images are in use" if all else "unused images with names go with --all"
        raise RlError(f"gc: {report.free >> 20} MiB are free of the {keep_free >> 20} MiB wished for", hint)
    return report


def free_space(paths: Paths) -> int:
    """Bytes that the caller may still write to the file system of the data directory."""
    found = os.statvfs(paths.data)
    return found.f_bavail * found.f_frsize


def _locked(engine: Engine, act: Act) -> Act:
    """*act* under ``content/lock``, exclusively: while an image is added nothing of it happens."""

    def guarded() -> None:
        try:
            with Lock(f"{engine.paths.content}/lock", exclusive=True, wait=False):
                act()
        except BlockingIOError:
            engine.warn("gc: a build, a pull or a load is at work, and keeps what it may need")

    return guarded


def _downloads(engine: Engine, all: bool) -> Candidates:
    content = ContentStore(engine.paths)
    directory = f"{engine.paths.content}/partial"
    size = 0
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        try:
            size += os.stat(f"{directory}/{name}").st_blocks * 512
        except FileNotFoundError:
            continue
    if not size:
        return []
    return [("downloads that were cut off", size, _locked(engine, lambda: content.sweep_partial(time.time() + 1)))]


def _builds(engine: Engine, all: bool) -> Candidates:
    from rl.engine.build import cache

    if not os.path.isdir(f"{engine.paths.data}/build"):
        return []
    found: Candidates = []
    for what, size, remove in cache.oldest(engine.paths):
        found.append((what, size, _locked(engine, remove)))
    return found


def _mapped(engine: Engine, all: bool) -> Candidates:
    from rl.engine import containers
    from rl.runtime import userns
    from rl.storage import metatree, trash

    paths = engine.paths
    used = set()
    for container_id in containers.ids(paths):
        try:
            used.add(containers.read_config(paths, container_id).get("image_id", ""))
        except RlError:
            return []  # it may need any of them
    found: Candidates = []
    for image_id in metatree.image_ids(paths):
        path = f"{paths.data}/mapped/{image_id}"
        if image_id not in used:
            size = userns.call(paths.run, trash.disk_usage, path)
            found.append((f"image {image_id[:12]} with other owners", size, _discard(paths, path)))
    return found


def _discard(paths: Paths, path: str) -> Act:
    from rl.storage import trash

    return lambda: trash.discard(paths, path)


def _images(engine: Engine, all: bool) -> Candidates:
    """Least recently pulled or built first, without those that others are built on: to remove them frees nothing."""
    from rl.engine import rmi
    from rl.engine.disk_usage import df
    from rl.errors import ConflictError, NoSuchImageError
    from rl.image import store

    pulled: dict[str, str] = {}
    below: set[tuple[str, ...]] = set()
    chains: dict[str, tuple[str, ...]] = {}
    for record in store.list_images(engine.paths)[0]:
        pulled[record["id"]] = max(pulled.get(record["id"], ""), record.get("pulled", ""))
        chains[record["id"]] = tuple(record["layers"])
        below.update(tuple(record["layers"][:count]) for count in range(len(record["layers"])))

    def remover(image_id: str) -> Act:
        def remove() -> None:
            try:
                with records_lock(engine.paths, exclusive=True):
                    rmi.remove_locked(engine.paths, image_id, rmi.Report(), [])
            except (ConflictError, NoSuchImageError):
                pass  # it came into use

        return remove

    rows = [row for row in df(engine)["Images"] if not row["Containers"] and (all or not row["Names"])]
    rows = [row for row in rows if chains.get(row["ImageID"]) not in below]
    rows.sort(key=lambda row: pulled.get(row["ImageID"], ""))
    return [
        (f"image {(row['Names'] or [row['ImageID'][:12]])[0]}", row["UniqueSize"], remover(row["ImageID"]))
        for row in rows
    ]
