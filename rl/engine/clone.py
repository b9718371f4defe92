"""rl container clone: another container like one that exists, with other limits or another image if asked.

What is copied is the record of what was asked; files that the original has written stay with it.
"""

from __future__ import annotations

import os
import sys

from rl.engine import containers, namespaces, naming, recording
from rl.engine import create as creation
from rl.engine.dependencies import Dependents
from rl.engine.spec import limits
from rl.errors import ConflictError, RlError, UsageError
from rl.runtime.cgroup.limits import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine

#: Files that belong to one container.
_OWN_FILES = ("cidfile", "pidfile", "conmon_pidfile")


def clone(engine: Engine, name: str, new: str, image: str, options: dict[str, Any]) -> str:
    """Make a container like *name*; its id. *new*: its name ("" for NAME-clone), *image* instead of the original's.

    *options*: the flags for limits; ``destroy`` the original then, even if it runs with ``force``; ``run`` it.
    Raises NoSuchContainerError, UsageError, ConflictError.
    """
    if options.get("force") and not options.get("destroy"):
        raise UsageError("cannot set --force without --destroy: invalid argument", "add --destroy")
    container_id = containers.find(engine.paths, name)
    original = containers.read_config(engine.paths, container_id)
    if options.get("destroy"):
        _check_removable(engine, container_id, bool(options.get("force")))
    config = _copy(engine, original, options)
    if image:
        found, document = creation.resolve_image(engine, image, {})
        config["image"], config["image_id"], config["layers"] = found["name"], found["id"], found["layers"]
        config["rootfs"], config["image_config"] = "", document.get("config") or {}
    _record(engine, config, new or options.get("name", ""), original)
    if options.get("destroy"):
        _destroy(engine, container_id, bool(options.get("force")))
    if options.get("run"):
        from rl.engine.start import start

        for _, error in start(engine, [config["id"]], {})[0]:
            if error is not None:
                raise error
    return config["id"]


def _check_removable(engine: Engine, container_id: str, force: bool) -> None:
    """Before anything is made: Podman makes the clone and then fails."""
    Dependents(engine.paths).check(container_id)
    status = containers.read_state(engine.paths, container_id).get("status", "")
    if status in containers.MONITORED and not force:
        raise ConflictError(
            f"cannot remove container {container_id} as it is {status} - running or paused containers "
            "cannot be removed without force: container state improper",
            "add --force",
        )


def _copy(engine: Engine, original: ContainerConfig, options: dict[str, Any]) -> ContainerConfig:
    paths, old = engine.paths, original["id"]
    config: ContainerConfig = {**original, "id": os.urandom(32).hex(), "name": "", "created": containers.now()}
    config["create_command"] = ["rl", *sys.argv[1:]]
    given = {key: value for key, value in original["options"].items() if key not in _OWN_FILES}
    present = containers.limits(paths, original)
    changes = limits.resources(options, present)
    config["limits"] = limits.merge(present, changes) if changes else present
    settings(config["limits"])  # raises for what contradicts
    config["options"] = {**given, **{key: options[key] for key in options if key in _LIMITS}}
    config["restart"] = containers.restart_policy(paths, original)
    config["env"] = containers.environment(paths, original)
    if original["hostname"] == old[:12]:
        config["hostname"] = config["id"][:12]
    if original["log"].get("path"):
        config["log"] = {**original["log"], "path": f"{paths.container(config['id'])}/ctr.log"}
    config["mounts"] = [
        {**spec, "source": os.urandom(32).hex()} if spec.get("anonymous") and not spec.get("borrowed") else spec
        for spec in original["mounts"]
    ]
    if original["userns"].startswith("auto"):
        namespaces.fill(engine, config, config["options"])  # ids of its own
    return config


_LIMITS = frozenset((
    "blkio_weight", "blkio_weight_device", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares",
    "cpus", "cpuset_cpus", "cpuset_mems", "device_read_bps", "device_read_iops", "device_write_bps",
    "device_write_iops", "memory", "memory_reservation", "memory_swap", "memory_swappiness", "pids_limit",
))  # fmt: skip


def _record(engine: Engine, config: ContainerConfig, name: str, original: ContainerConfig) -> None:
    """Make it a container; without a *name* it is called as its original, with -clone, -clone1, … after that."""
    given = {"_original": original["id"]}  # whose copies of secrets it gets
    if name:
        naming.check_name(name)
        config["name"] = config["options"]["name"] = name
        return recording.record(engine, config, given)
    for number in range(1000):
        config["name"] = config["options"]["name"] = f"{original['name']}-clone{number or ''}"
        try:
            return recording.record(engine, config, given)
        except ConflictError:
            continue
    raise ConflictError(f"no free name was found for a clone of {original['name']}", "name it with --name")


def _destroy(engine: Engine, container_id: str, force: bool) -> None:
    from rl.engine.rm import rm

    for _, error in rm(engine, [container_id], force=force):
        if error is not None:
            raise RlError(f"remove the original: {error.message}", error.hint)
