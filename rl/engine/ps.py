"""rl ps: what containers there are. Reads two small files per container, takes no lock, waits for nothing.

Unless a process was killed: what that left is corrected and swept on sight.

Called by the command line and by verbs with ``--filter``. On the hot path.
"""

from __future__ import annotations

import os
import time

from rl.engine import containers, selection
from rl.engine.container_filters import Filters
from rl.engine.times import NEVER, ago, epoch_ns, human_duration
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState
    from rl.engine.context import Engine

    Record = tuple[ContainerConfig, ContainerState]

_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "command": lambda row: row["Command"] or [],
    "created": lambda row: row["_created"],
    "id": lambda row: row["Id"],
    "image": lambda row: row["Image"],
    "names": lambda row: row["Names"],
    "runningfor": lambda row: row["StartedAt"],
    "size": lambda row: (row["Size"] or {}).get("rootFsSize", 0),
    "status": lambda row: row["State"],
}


#: Without --all. As Docker does, one that is about to start again counts.
_SHOWN = containers.LIVE | {"restarting"}


def ps(
    engine: Engine, *, all: bool = False, filters: list[str] | None = None, last: int = -1, latest: bool = False,
    size: bool = False, sort: str = "created", namespaces: bool = False, sync: bool = False,
) -> list[dict[str, Any]]:
    """The containers as Podman's `ps --format json` shows them.

    Only those that run, unless *all*, *last* or a status filter asks for more.

    *filters*: see :mod:`rl.engine.container_filters`. *size* measures what each container has written (bytes). *sync*:
    look at the records of containers that do not run too, so that all are corrected. A damaged record is told through
    ``engine.warn`` and left out. Raises UsageError for a filter that is not known.
    """
    last = 1 if latest else last
    states = None if all or last > 0 else _SHOWN
    found = list(
        selection.candidates(engine, Filters(engine, filters or []), states=states, everywhere=sync, last=last)
    )
    if not filters and last <= 0:
        containers.tidy(engine.paths, {each.id for each in found if each.status in containers.MONITORED})
    records = [(each.config, each.state) for each in found]
    rows = [_row(engine, config, state, namespaces) for config, state in records]
    if size or sort == "size":
        _measure(engine, records, rows)
    try:
        rows.sort(key=_SORTS["created"])
        if sort != "created":
            rows.sort(key=_SORTS[sort])
    except KeyError:
        raise UsageError(f"ps: {sort!r} is not something to sort by", f"use one of {', '.join(_SORTS)}") from None
    for row in rows:
        del row["_created"]
    return rows


def _row(
    engine: Engine, config: ContainerConfig, state: ContainerState, namespaces: bool
) -> dict[str, Any]:
    status = state.get("status", "created")
    started, finished = state.get("started", ""), state.get("finished", "")
    running = status in containers.LIVE or status == "initialized"
    exited = bool(finished) and not running
    created = epoch_ns(config["created"])
    row: dict[str, Any] = {
        "AutoRemove": config.get("remove", False),
        "Command": config.get("arguments", []),
        "CreatedAt": ago(config["created"]),
        "Exited": exited,
        "ExitedAt": epoch_ns(finished) // 10**9 if exited else NEVER,
        "ExitCode": state.get("exit_code", 0) if exited else 0,
        "Id": config["id"],
        "Image": config.get("image") or config.get("rootfs", ""),
        "ImageID": config.get("image_id", ""),
        "IsInfra": False,
        "Labels": config.get("labels") or None,
        "Mounts": [spec.get("destination", "") for spec in config.get("mounts", []) if spec.get("type") != "tmpfs"],
        "Names": [config["name"]],
        "Namespaces": _namespaces(state.get("pid", 0)) if namespaces and running else {},
        "Networks": networks(config, state),
        "Pid": state.get("pid", 0) if running else 0,
        "Pod": config.get("pod", ""),
        "PodName": config.get("pod_name", ""),
        "Ports": config.get("network", {}).get("ports") or None,
        "Restarts": state.get("restarts", 0),
        "Size": None,
        "StartedAt": epoch_ns(started) // 10**9 if started else NEVER,
        "State": status,
        "Status": status_text(state) + _health_text(engine, config, status),
        "Created": created // 10**9,
    }
    row["_created"] = created
    return row


def networks(config: ContainerConfig, state: ContainerState) -> list[str]:
    """How the container is connected: the mode that came about, before that the one asked for."""
    mode = state.get("network", {}).get("mode") or config.get("network", {}).get("mode") or "default"
    return [] if mode in ("none", "default") else [mode.partition(":")[0] if mode.startswith("pasta") else mode]


def status_text(state: ContainerState) -> str:
    """``Up 5 minutes``, ``Exited (1) 3 hours ago``, ``Created`` …"""
    status = state.get("status", "created")
    if status == "running":
        return "Up " + human_duration((time.time_ns() - epoch_ns(state.get("started", ""))) / 1e9)
    if status == "restarting":
        return f"Restarting ({state.get('exit_code', 0)}) {ago(state.get('finished', ''))}".rstrip()
    if status == "exited":
        return f"Exited ({state.get('exit_code', 0)}) {ago(state.get('finished', ''))}".rstrip()
    return status.capitalize()


def _health_text(engine: Engine, config: ContainerConfig, status: str) -> str:
    if "health" not in config or status != "running":
        return ""
    from rl.engine import healthcheck

    found = healthcheck.status(engine.paths, config)
    return f" ({found})" if found else ""


_NS_FILES = (("Mnt", "mnt"), ("Cgroup", "cgroup"), ("Ipc", "ipc"), ("Net", "net"), ("Pidns", "pid"), ("User", "user"),
             ("Uts", "uts"))


def _namespaces(pid: int) -> dict[str, str]:
    """The inode numbers of the container's namespaces; without those the kernel does not let us see."""
    found = {}
    for key, name in _NS_FILES:
        try:
            found[key] = os.readlink(f"/proc/{pid}/ns/{name}").partition("[")[2].rstrip("]")
        except OSError:
            continue
    return found


# --- sizes


def written(directories: list[str]) -> list[int]:
    """Bytes in each directory tree, hard links counted once; runs in the user namespace."""
    sizes = []
    for directory in directories:
        total = 0
        seen: set[int] = set()
        waiting = [directory]
        while waiting:
            try:
                entries = os.scandir(waiting.pop())
            except OSError:
                continue
            with entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                            continue
                    except OSError:
                        continue
                    if status.st_nlink > 1:
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_size
        sizes.append(total)
    return sizes


def container_sizes(engine: Engine, configs: list[ContainerConfig]) -> list[dict[str, int]]:
    """``rwSize``: what each container has written; ``rootFsSize``: that and its image. Bytes."""
    from rl.image import store
    from rl.runtime import userns

    uppers = [f"{engine.paths.container(config['id'])}/upper" for config in configs]
    sizes = userns.call(engine.paths.run, written, uppers)
    found = []
    for config, size in zip(configs, sizes):  # noqa: B905
        try:
            below = store.unpacked_size(engine.paths, config.get("layers", [])) if config.get("layers") else 0
        except (RlError, OSError):
            below = 0
        found.append({"rootFsSize": below + size, "rwSize": size})
    return found


def _measure(engine: Engine, records: list[Record], rows: list[dict[str, Any]]) -> None:
    if records:
        for row, size in zip(rows, container_sizes(engine, [config for config, _ in records])):  # noqa: B905
            row["Size"] = size
