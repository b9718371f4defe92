"""rl rmi: take names from images, and remove the images that have none left.

As Podman: a name is untagged and the image goes with its last name; an id removes the image if it has
one name at most; an image in use by a container stays unless forced.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.engine import events
from rl.engine.collect import collect
from rl.errors import ConflictError, CorruptRecordError, NoSuchImageError, RlError, UsageError
from rl.image import store
from rl.image.content import records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine


class Report:
    """What happened: a removal of several images does what it can and tells the rest.

    ``exit_code``: 0; 1 an image was not known; 2 an image is in use (podman-rmi(1), "Exit Status");
    125 another error.
    """

    __slots__ = ("deleted", "errors", "freed", "untagged")

    def __init__(self) -> None:
        self.untagged: list[str] = []
        self.deleted: list[str] = []  # full ids
        self.errors: list[RlError] = []
        self.freed = 0  # bytes of blobs

    @property
    def exit_code(self) -> int:
        codes = {_exit_code(error) for error in self.errors}
        return next((code for code in (2, 1, 125) if code in codes), 0)


class ImageInUseError(ConflictError):
    """A container was made from the image."""

    exit_code = 2


def _exit_code(error: RlError) -> int:
    return 1 if isinstance(error, NoSuchImageError) else 2 if isinstance(error, ImageInUseError) else 125


def rmi(
    engine: Engine, names: list[str], *, force: bool = False, all: bool = False, ignore: bool = False,
    no_prune: bool = False,
) -> Report:
    """Remove the images and manifest lists *names*, or *all*, and free what only they used.

    *force* removes an image with several names by its id, and the containers that use it; *ignore*
    takes unknown images for removed ones; *no_prune* keeps parents that have no name and no other child.
    Raises UsageError; what goes wrong with one image is in the report.
    """
    if all and names:
        raise UsageError("rmi: image names and --all exclude each other", "leave one of them out")
    if not all and not names:
        raise UsageError("rmi: image name or ID must be specified", "name an image, or use --all")
    report = Report()
    removed: list[ImageRecord] = []
    if all:
        from rl.engine.manifest import records

        names = [*_everything(engine, report), *records.names(engine.paths)]
    for name in dict.fromkeys(names):
        try:
            if force:
                _remove_containers(engine, name)
            with records_lock(engine.paths, exclusive=True):
                _remove(engine.paths, name, force or all, no_prune, report, removed)
        except CorruptRecordError as error:
            if force and _forget(engine.paths, name):
                report.untagged.append(name)
            else:
                report.errors.append(error)
        except NoSuchImageError as error:
            if not _remove_list(engine, name, report) and not ignore and not all:
                report.errors.append(error)
        except RlError as error:
            report.errors.append(error)
    if removed:
        report.freed = collect(engine, removed)
    return report


def _remove_list(engine: Engine, name: str, report: Report) -> bool:
    """Remove the manifest list *name*, as Podman does; whether there is one. The images in it stay."""
    from rl.engine.manifest.lists import delete

    try:
        full, list_id = delete(engine, name)
    except NoSuchImageError:
        return False
    report.untagged.append(full)
    report.deleted.append(list_id)
    return True


def _forget(paths: Paths, name: str) -> bool:
    with records_lock(paths, exclusive=True):
        return store.forget_corrupt(paths, name)


def _everything(engine: Engine, report: Report) -> list[str]:
    """Every image by id, what was built last first: children before their parents."""
    records, errors = store.list_images(engine.paths)
    report.errors.extend(errors)
    steps = {record["id"]: (len(record["layers"]), _history_length(engine.paths, record)) for record in records}
    return sorted(steps, key=lambda image: steps[image], reverse=True)


def _history_length(paths: Paths, record: ImageRecord) -> int:
    try:
        return len(store.config(paths, record).get("history") or [])
    except CorruptRecordError:
        return 0


def _remove(
    paths: Paths, name: str, force: bool, no_prune: bool, report: Report, removed: list[ImageRecord]
) -> None:
    """Untag or delete one image. Under the records lock."""
    found = store.find(paths, name)
    records = store.same_image(paths, found["id"])
    named = [record for record in records if record["name"]]
    by_name = store.is_name_of(name, found)
    if by_name and len(named) > 1:
        store.drop_locked(paths, found)
        events.emit(paths, "image", "untag", found["id"], found["name"])
        report.untagged.append(found["name"])
        return
    if len(named) > 1 and not force:
        raise ConflictError(
            f'unable to delete image "{found["id"]}" by ID with more than one tag '
            f"([{' '.join(record['name'] for record in named)}]): please force removal",
            f"rl rmi --force {name} removes all of them; name one of them to remove just that name",
        )
    _check_unused(paths, found)
    for record in named:
        report.untagged.append(record["name"])
    if has_children(paths, found):
        if not named:
            raise ConflictError(
                f"image {found['id'][:12]} is the parent of another image", "remove the images made from it first"
            )
        for record in named:
            store.drop_locked(paths, record)
            events.emit(paths, "image", "untag", record["id"], record["name"])
        return
    _delete(paths, records, report, removed)
    if not no_prune:
        _prune_parents(paths, found, report, removed)


def remove_locked(paths: Paths, image_id: str, report: Report, removed: list[ImageRecord]) -> None:
    """Delete the unused image with all its names, for `rl image prune`. Under the records lock, exclusive.

    Raises ImageInUseError, ConflictError for one without a name that others are built on, NoSuchImageError.
    """
    _remove(paths, image_id, True, True, report, removed)


def _delete(paths: Paths, records: list[ImageRecord], report: Report, removed: list[ImageRecord]) -> None:
    for record in records:
        store.drop_locked(paths, record, keep=False)
        if record["name"]:
            events.emit(paths, "image", "untag", record["id"], record["name"])
    events.emit(paths, "image", "remove", records[0]["id"], records[0]["name"])
    report.deleted.append(records[0]["id"])
    removed.append(records[0])


# who uses it

def users(paths: Paths, image_id: str) -> list[str]:
    """The ids of the containers that were made from the image."""
    found = []
    try:
        names = os.listdir(paths.containers)
    except FileNotFoundError:
        return []
    for container_id in names:
        try:
            if read_json(f"{paths.container(container_id)}/config.json").get("image_id") == image_id:
                found.append(container_id)
        except (OSError, ValueError, AttributeError):
            continue  # what it uses is kept by the garbage collector
    return found


def _check_unused(paths: Paths, record: ImageRecord) -> None:
    containers = users(paths, record["id"])
    if containers:
        short = " ".join(container[:12] for container in containers)
        raise ImageInUseError(
            f"image used by {containers[0]}: image is in use by a container",
            f"remove the container first: rl rm {short}; or both: rl rmi --force {record['name'] or record['id'][:12]}",
        )


def _remove_containers(engine: Engine, name: str) -> None:
    """What --force does first, without the lock: stopping a container takes its time."""
    found = store.find(engine.paths, name)
    named = [record for record in store.same_image(engine.paths, found["id"]) if record["name"]]
    if len(named) > 1 and store.is_name_of(name, found):
        return  # the image stays, with its other names
    containers = users(engine.paths, found["id"])
    if containers:
        from rl.engine.rm import rm

        for _, error in rm(engine, containers, force=True):
            if error:
                raise error


# parents: images that a build left on the way

def parent_of(paths: Paths, record: ImageRecord, candidates: list[ImageRecord]) -> ImageRecord | None:
    """The image this one was built on by one instruction, as layers and history tell."""
    own = store.config(paths, record)
    history = own.get("history") or []
    if not history:
        return None
    last_is_empty = bool(history[-1].get("empty_layer"))
    layers = record["layers"] if last_is_empty else record["layers"][:-1]
    for other in candidates:
        if other["id"] != record["id"] and other["layers"] == layers:
            other_history = store.config(paths, other).get("history") or []
            if other_history == history[:-1] and other_history:
                return other
    return None


def has_children(paths: Paths, record: ImageRecord) -> bool:
    """Whether another image was built on this one."""
    layers = record["layers"]
    history: list[object] | None = None
    for other in store.list_images(paths)[0]:
        if other["id"] == record["id"] or other["layers"][: len(layers)] != layers:
            continue
        if len(other["layers"]) > len(layers) + 1:
            continue
        if history is None:
            history = store.config(paths, record).get("history") or []
        if history and (store.config(paths, other).get("history") or [])[:-1] == history:
            return True
    return False


def _prune_parents(paths: Paths, record: ImageRecord, report: Report, removed: list[ImageRecord]) -> None:
    """Remove the nameless images it was built on, as long as nothing else needs them."""
    current = record
    while True:
        nameless = [other for other in store.list_images(paths)[0] if not other["name"]]
        parent = parent_of(paths, current, nameless) if nameless else None
        if parent is None or users(paths, parent["id"]) or has_children(paths, parent):
            return
        _delete(paths, [parent], report, removed)
        current = parent
