"""`rl pull --userns`: an image made ready for containers with a user namespace of their own, before there is one."""

from __future__ import annotations

import os

from rl.engine import rootfs
from rl.engine.spec import idmaps
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.model import ContainerConfig, ImageRecord
    from rl.engine.context import Engine
    from rl.engine.spec.idmaps import UserNamespace


def check(mode: str) -> UserNamespace:
    """The maps of ``--userns MODE``. Raises UsageError, UnsupportedError."""
    maps = userns.wanted_maps()
    limits = (sum(r[2] for r in maps.uid) - 1, sum(r[2] for r in maps.gid) - 1)
    return idmaps.parse(mode, (os.getuid(), os.getgid()), limits, [])


def prepare(engine: Engine, records: Sequence[ImageRecord], mode: str) -> None:
    """Give the files of *records* the owners that containers with ``--userns MODE`` need. Raises RlError."""
    maps = check(mode)
    for record in {record["id"]: record for record in records}.values():
        config: ContainerConfig = {
            "image": record["name"], "image_id": record["id"], "layers": record["layers"], "userns": mode,
            "uid_map": maps.uid_map, "gid_map": maps.gid_map, "id_key": maps.id_key,
        }
        rootfs.prepare(engine.paths, config)
