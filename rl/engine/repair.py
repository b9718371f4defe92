"""rl system check --repair: half things go, and what is broken is made again from what is whole.

A blob is fetched again from the registry its image came from, by its digest; a layer is unpacked again from its blob.
Only what cannot be had back is removed, as with Podman: an image, unless a container uses it; with *force* that too.
"""

from __future__ import annotations

import os

from rl.engine import containers, naming
from rl.engine.check import Damage
from rl.engine.collect import collect
from rl.engine.volume import records as volumes
from rl.errors import NoSuchImageError, RlError, StateError
from rl.image.content import ContentStore, adding
from rl.storage import layers, trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ImageRecord
    from rl.engine.context import Engine
    from rl.image.reference import Reference


def repair(engine: Engine, damages: list[Damage], *, force: bool = False) -> list[tuple[Damage, str | RlError]]:
    """For each of *damages*, in their order, what was done, or why nothing could be done."""
    results: list[tuple[Damage, str | RlError]] = []
    swept = False
    removed: set[str] = set()  # images
    for damage in damages:
        try:
            if damage.kind == "leftover":
                if not swept:
                    collect(engine)  # frees what no record names, sweeps and empties the trash
                swept = True
                results.append((damage, "removed"))
            else:
                results.append((damage, _REPAIRS[damage.kind](engine, damage, force, removed)))
        except RlError as error:
            results.append((damage, error))
    return results


def _blob(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    record: ImageRecord = damage.details["record"]
    descriptor = damage.details["descriptor"]
    if record["id"] in removed:
        return "gone with its image"
    content = ContentStore(engine.paths)
    problem: RlError = NoSuchImageError("no registry is known to have it")
    silent: set[str] = set()  # registries that do not answer
    with adding(engine.paths):
        for name in _sources(record):
            if name.registry in silent:
                continue
            try:
                content.remove(descriptor["digest"])
                _fetch(engine, name, descriptor)
                return f"fetched again from {name.name}"
            except RlError as error:
                problem = error
                if not isinstance(error, NoSuchImageError):
                    silent.add(name.registry)
    if not isinstance(problem, NoSuchImageError) and not force:
        hint = problem.hint or "try again when the registry answers"
        raise RlError(f"fetch it again: {problem.message}", f"{hint}; --force removes the image instead")
    _remove_image(engine, record, force, problem)
    removed.add(record["id"])
    return f"removed, with image {record['name'] or record['id'][:12]}: {problem.message}"


def _sources(record: ImageRecord) -> list[Reference]:
    """The names, with digests, under which a registry may have the image."""
    from rl.image.reference import LOCALHOST, parse

    found = []
    for text in [*record.get("digests", []), record["name"]]:
        if text:
            name = parse(text)
            if name.registry not in ("", LOCALHOST):
                found.append(name if name.digest else name.with_default_tag())
    return found


def _fetch(engine: Engine, name: Reference, descriptor: dict[str, object]) -> None:
    from rl.engine.pull import Layers
    from rl.image.connect import Options
    from rl.image.progress import Progress
    from rl.image.pull import Puller

    puller = Puller(engine.paths, Layers(engine), Options(retries=1), Progress(), engine.warn)
    try:
        puller.refetch(name, descriptor)
    finally:
        puller.close()


def _remove_image(engine: Engine, record: ImageRecord, force: bool, reason: RlError) -> None:
    from rl.engine import rmi

    report = rmi.rmi(engine, [record["id"]], force=True) if force else rmi.Report()
    if not force:
        gone: list[ImageRecord] = []
        from rl.image.content import records_lock

        try:
            with records_lock(engine.paths, exclusive=True):
                rmi.remove_locked(engine.paths, record["id"], report, gone)
        except rmi.ImageInUseError as error:
            raise StateError(
                f"it cannot be had back ({reason.message}), and the image cannot be removed: {error.message}",
                "--force removes the containers that use it, and the image",
            ) from None
        collect(engine, gone)
    if report.errors:
        raise report.errors[0]


def _image(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    """A record that cannot be read: pulled anew, which fetches no more than is missing; else it goes."""
    from rl.engine.pull import pull
    from rl.engine.rmi import rmi

    name = damage.what
    try:
        from rl.image.reference import LOCALHOST, parse

        if parse(name).registry not in ("", LOCALHOST):
            pull(engine, name, quiet=True)
            return "pulled again"
    except RlError:
        pass
    report = rmi(engine, [name], force=True)
    if report.errors:
        raise report.errors[0]
    return "removed"


def _layer(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    from rl.engine.load import unpack

    diff_id = damage.what
    for container_id in containers.ids(engine.paths):
        try:
            config = containers.read_config(engine.paths, container_id)
            running = containers.read_state(engine.paths, container_id).get("status") in containers.MONITORED
        except RlError:
            continue
        if running and diff_id in config.get("layers", []):
            raise StateError(
                f"container {config['name']} runs on it", f"stop it first: rl stop {config['name']}; then repair again"
            )
    with adding(engine.paths):
        trash.discard(engine.paths, layers.layer_dir(engine.paths, diff_id))
        if damage.details.get("blob") is None:
            done = "removed: its archive is not here"
        else:
            path, media_type = damage.details["blob"]
            unpack(engine, [_Layer(path, media_type, diff_id)])
            done = "unpacked again"
    trash.empty(engine.paths)
    return done


class _Layer:
    """What rl.engine.load.unpack wants to know."""

    __slots__ = ("diff_id", "digest", "media_type")

    def __init__(self, path: str, media_type: str, diff_id: str) -> None:
        self.digest = f"sha256:{os.path.basename(path)}"
        self.media_type = media_type
        self.diff_id = diff_id


def _container(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    from rl.engine.prefork import forget_run_directory, take_lock
    from rl.engine.rm import rm

    if damage.details.get("only_state"):
        lock = take_lock(engine.paths, damage.what)
        try:
            state = {"status": "exited", "pid": 0, "started": "", "finished": containers.now(), "exit_code": 255,
                     "error": "its state was lost"}  # fmt: skip
            containers.write_state(engine.paths, damage.what, state, sync=True)  # type: ignore[arg-type]
        finally:
            forget_run_directory(engine.paths, damage.what)
            os.close(lock)
        return "recorded as exited"
    if not force:
        raise RlError("it cannot be repaired", f"--force removes it, as `rl rm --force {damage.what[:12]}` does")
    for _, error in rm(engine, [damage.what], force=True, ignore=True):
        if error is not None:
            raise error
    return "removed"


def _name(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    container_id = damage.details.get("container", "")
    if not container_id:
        naming.sweep(engine.paths)
        return "removed"
    if not os.path.isdir(engine.paths.container(container_id)):
        return "gone with its container"
    naming.take_name(engine.paths, damage.what, container_id)
    return "given back"


def _volume(engine: Engine, damage: Damage, force: bool, removed: set[str]) -> str:
    from rl.config.jsonio import write_json

    if damage.details.get("record"):
        write_json(f"{volumes.directory(engine.paths, damage.what)}/volume.json", volumes.fresh())
        return "a new record was written; labels and options are lost"
    os.makedirs(volumes.data(engine.paths, damage.what), 0o755, exist_ok=True)
    return "an empty directory was made"


_REPAIRS: dict[str, Callable[[Engine, Damage, bool, set[str]], str]] = {
    "blob": _blob, "image": _image, "layer": _layer, "container": _container, "name": _name, "volume": _volume,
}
