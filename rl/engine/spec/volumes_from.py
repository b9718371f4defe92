"""--volumes-from and --volume-driver (podman-run(1)). Imported only where one of them is given."""

from __future__ import annotations

from rl.engine import containers
from rl.engine.spec import mounts as flags
from rl.engine.spec.values import comma_list
from rl.errors import NoSuchContainerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.model import MountSpec
    from rl.config.paths import Paths

_OPTIONS = ("ro", "rw", "z")


def mounts(paths: Paths, options: Mapping[str, Any], image_volumes: list[str]) -> list[MountSpec]:
    """All mounts of the container: its own flags first, then what other containers have, then the image's volumes."""
    if options.get("volume_driver"):
        from rl.engine.volume.create import check_driver

        check_driver(options["volume_driver"])
    lent: dict[str, MountSpec] = {}
    for text in options.get("volumes_from", []):
        for spec in _of_container(paths, text):
            lent[spec["destination"]] = spec
    own = flags.mounts(options, [path for path in image_volumes if _normal(path) not in lent])
    taken = {spec["destination"] for spec in own}
    return own + [spec for destination, spec in lent.items() if destination not in taken]


def _normal(path: str) -> str:
    import os

    return "/" + os.path.normpath(path).lstrip("/")


def _of_container(paths: Paths, text: str) -> list[MountSpec]:
    """``CONTAINER[:OPTIONS]``: the volumes and mounts that were asked for with that container."""
    name, colon, given = text.partition(":")
    words = comma_list(given) if colon else []
    for word in words:
        if word not in _OPTIONS:
            raise UsageError(
                f'invalid option "{word}" specified - volumes from another container can only use z,ro,rw options',
                "write --volumes-from CONTAINER[:ro|rw][,z]",
            )
    if "ro" in words and "rw" in words:
        raise UsageError(f"--volumes-from {text}: ro and rw exclude each other", "leave one of them out")
    if not name:
        raise UsageError(f"--volumes-from {text!r} names no container", "write --volumes-from CONTAINER[:ro|rw][,z]")
    try:
        config = containers.read_config(paths, containers.find(paths, name))
    except NoSuchContainerError as error:
        what = f'looking up container "{name}" for volumes-from: {error.message}'
        raise NoSuchContainerError(what, error.hint) from None
    return [_lent(spec, words) for spec in config.get("mounts", [])]


def _lent(spec: MountSpec, words: list[str]) -> MountSpec:
    copy: MountSpec = {**spec}
    options = list(spec.get("options", []))
    if "ro" in words or "rw" in words:
        options = [option for option in options if option not in ("ro", "rw")] + (["ro"] if "ro" in words else [])
    copy["options"] = options
    if spec["type"] == "volume":
        copy["borrowed"] = True
    return copy
