"""From a plan to a container on disk: all of it or nothing. Called by create, run and clone."""

from __future__ import annotations

import os

from rl.config.jsonio import write_json
from rl.engine import containers, events, naming
from rl.engine.spec import logs
from rl.errors import ConflictError, NoSuchImageError, RlError, disk_hint
from rl.image import content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine

_LEFT = ("amber", "brave", "calm", "clever", "daring", "eager", "fair", "gentle", "happy", "jolly", "keen", "kind",
         "lively", "lucky", "merry", "mild", "noble", "patient", "proud", "quick", "quiet", "rapid", "sharp", "shy",
         "silent", "sunny", "swift", "tidy", "vivid", "warm", "wise", "witty")
_RIGHT = ("badger", "beaver", "bison", "crane", "curlew", "dolphin", "eagle", "egret", "falcon", "ferret", "finch",
          "gecko", "heron", "ibis", "jackal", "kestrel", "lemur", "lynx", "marten", "newt", "orca", "otter", "owl",
          "petrel", "plover", "puffin", "raven", "robin", "seal", "stoat", "swan", "wren")


def record(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Make *config* a container: directory, name, records, cidfile; all of it or nothing.

    The directory appears by rename(2) when its records are complete; the name is taken before, since
    that may fail. Records of `--rm` containers are not fsynced: they end with this boot.
    """
    paths, container_id = engine.paths, config["id"]
    sync = not config["remove"]
    if options.get("cidfile"):
        _write_cidfile(options["cidfile"], container_id)
    staging = f"{paths.containers}/.{container_id}.new"
    held = -1
    try:
        held = naming.hold_staging(staging)
        _take_name(engine, config, bool(options.get("replace")))
        logs.render(engine, config)
        state = {"status": "created", "pid": 0, "started": "", "finished": "", "exit_code": 0}
        with content.records_lock(paths, exclusive=False):  # `rl rmi` must not take the image away just now
            if config["image_id"] and not os.path.exists(f"{paths.blobs}/{config['image_id']}"):
                raise NoSuchImageError(f"image {config['image']} was removed meanwhile", f"rl pull {config['image']}")
            made = _claim_volumes(engine, config, own=False)
            if not sync:
                os.close(os.open(f"{staging}/{containers.PASSING}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if config.get("secrets"):
                from rl.engine import container_secrets

                container_secrets.copy(paths, config, staging, sync, options.get("_original", ""))
            write_json(f"{staging}/config.json", config, sync=sync)
            write_json(f"{staging}/state.json", state, sync=sync)
            os.rename(staging, paths.container(container_id))
            made += _claim_volumes(engine, config, own=True)
    except BaseException as error:
        discard(engine, config)  # it may be on disk already, with some of its volumes
        _undo(engine, config, staging, options.get("cidfile", ""))
        if isinstance(error, OSError):
            what = f"write the record of container {container_id[:12]}: {error.strerror}"
            raise RlError(what, disk_hint(error)) from None
        raise
    finally:
        if held >= 0:
            os.close(held)
    for name in made:
        events.emit(paths, "volume", "create", name, name)
    events.emit_container(paths, config, "create")


def _write_cidfile(path: str, container_id: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ConflictError(
            f"--cidfile {path}: the file exists", "remove it, if its container is gone, or name another file"
        ) from None
    except OSError as error:
        raise RlError(f"--cidfile {path}: {error.strerror}") from None
    os.write(fd, container_id.encode())
    os.close(fd)


def _take_name(engine: Engine, config: ContainerConfig, replace: bool) -> None:
    if config["name"]:
        if replace and _replace(engine, config):
            return
        naming.take_name(engine.paths, config["name"], config["id"])
        return
    for attempt in range(40):
        words = os.urandom(2)
        name = f"{_LEFT[words[0] % len(_LEFT)]}_{_RIGHT[words[1] % len(_RIGHT)]}"
        if attempt >= 4:
            name += str(int.from_bytes(os.urandom(2), "little"))
        try:
            naming.take_name(engine.paths, name, config["id"])
        except ConflictError:
            continue
        config["name"] = name
        return
    raise ConflictError("no free container name was found", "name the container with --name")


def _replace(engine: Engine, config: ContainerConfig) -> bool:
    """Remove who has the name and take it; several that replace each other at once take turns."""
    import time

    from rl.engine.rm import rm

    for _ in range(20):
        for _, error in rm(engine, [config["name"]], force=True, ignore=True):
            if error is not None:
                raise error
        try:
            naming.take_name(engine.paths, config["name"], config["id"])
            return True
        except ConflictError:
            time.sleep(0.01)  # another was faster; it may still be writing its record
    return False


def _claim_volumes(engine: Engine, config: ContainerConfig, *, own: bool) -> list[str]:
    """The names of the volumes that were made for it."""
    if not any(spec["type"] == "volume" for spec in config.get("mounts", [])):
        return []
    from rl.engine import volumes

    return volumes.claim(engine.paths, config, own=own)


def _undo(engine: Engine, config: ContainerConfig, staging: str, cidfile: str) -> None:
    copies = [f"secret.{use['id']}" for use in config.get("secrets", [])]
    for name in ("config.json", "state.json", containers.PASSING, *copies):
        try:
            os.unlink(f"{staging}/{name}")
        except OSError:
            pass
    try:
        os.rmdir(staging)
    except OSError:
        pass
    naming.release_name(engine.paths, config["name"], config["id"])
    if cidfile:
        try:
            os.unlink(cidfile)
        except OSError:
            pass


def discard(engine: Engine, config: ContainerConfig) -> None:
    """Take back the container of a `rl run` that did not start: nothing of it may be left."""
    from rl.engine.rm import rm

    rm(engine, [config["id"]], force=True, ignore=True, volumes=True)
