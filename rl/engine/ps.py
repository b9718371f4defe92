"""rl ps: what containers there are. Reads two small files per container, takes no lock, waits for nothing.

Unless a process was killed: what that left is corrected and swept on sight.

Called by the command line and by verbs with ``--filter``. On the hot path.
"""

from __future__ import annotations

import os
import time

from rl.engine import containers
from rl.engine.times import NEVER, ago, epoch_ns, human_duration, moment_ns
from rl.errors import CorruptRecordError, NoSuchContainerError, RlError, UsageError

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
    "size": lambda row: (row["Size"] or {}).get("rwSize", 0),
    "status": lambda row: row["State"],
}


#: Without --all. As Docker does, one that is about to start again counts.
_SHOWN = containers.LIVE | {"restarting"}


def ps(
    engine: Engine, *, all: bool = False, filters: list[str] | None = None, last: int = -1, latest: bool = False,
    size: bool = False, sort: str = "created", namespaces: bool = False,
) -> list[dict[str, Any]]:
    """The containers as Podman's `ps --format json` shows them.

    Only those that run, unless *all*, *last* or a status filter asks for more.

    *filters*: ``key=value`` (podman-ps(1)); different keys must all hold, of one key's values one. *size* measures
    what each container has written (bytes). A damaged record is told through ``engine.warn`` and left out.
    Raises UsageError for a filter that is not known.
    """
    if latest:
        last = 1
    tests, wants_all = _filters(engine, filters or [])
    records = []
    live = set()
    for container_id in containers.ids(engine.paths):
        try:
            config = containers.read_config(engine.paths, container_id)
            state = containers.read_state(engine.paths, container_id)
        except NoSuchContainerError:
            continue  # removed meanwhile
        except CorruptRecordError as error:
            engine.warn(f"container {_name_of(engine, container_id)}: {error.message} (hint: {error.hint})")
            continue
        if state.get("status") in containers.MONITORED:
            live.add(container_id)
        if state.get("status") not in _SHOWN and not (all or wants_all or last > 0):
            continue
        record = (config, state)
        if tests and not _holds(tests, record):
            continue
        records.append(record)
    containers.tidy(engine.paths, live)
    if last > 0:
        records.sort(key=lambda record: record[0]["created"], reverse=True)
        del records[last:]
    rows = [_row(engine, config, state, namespaces) for config, state in records]
    if size:
        _measure(engine, records, rows)
    try:
        rows.sort(key=_SORTS[sort])
    except KeyError:
        raise UsageError(f"ps: {sort!r} is not something to sort by", f"use one of {', '.join(_SORTS)}") from None
    for row in rows:
        del row["_created"]
    return rows


def latest(engine: Engine) -> str:
    """The id of the container created last. Raises NoSuchContainerError when there is none."""
    newest, found = "", ""
    for container_id in containers.ids(engine.paths):
        try:
            created = containers.read_config(engine.paths, container_id)["created"]
        except RlError:
            continue
        if created > newest:
            newest, found = created, container_id
    if not found:
        raise NoSuchContainerError("there is no container", "create one with `rl run`")
    return found


def _name_of(engine: Engine, container_id: str) -> str:
    """The name of a container whose record is damaged, from the link; else its short id."""
    try:
        for name in os.listdir(engine.paths.names):
            if os.readlink(f"{engine.paths.names}/{name}").endswith(container_id):
                return f"{name} ({container_id[:12]})"
    except OSError:
        pass
    return container_id[:12]


def _row(
    engine: Engine, config: ContainerConfig, state: ContainerState, namespaces: bool
) -> dict[str, Any]:  # fmt: skip
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
        "Pod": "",
        "PodName": "",
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


# --- filters


def _holds(tests: dict[str, list[Callable[[Record], bool]]], record: Record) -> bool:
    for key, choices in tests.items():
        wanted = all if key.startswith("label") else any
        if not wanted(test(record) for test in choices):
            return False
    return True


def _filters(engine: Engine, filters: list[str]) -> tuple[dict[str, list[Callable[[Record], bool]]], bool]:
    """The tests of each key, and whether containers that do not run count too."""
    tests: dict[str, list[Callable[[Record], bool]]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if key.endswith("!"):
            key, value = f"{key[:-1]}!", value
        if not equals or not key:
            raise UsageError(f"filter {text!r} is not of the form KEY=VALUE", "for example --filter status=exited")
        if key not in _TESTS:
            known = ", ".join(name for name in _TESTS if not name.endswith("!"))
            raise UsageError(f"{key} is an invalid filter", f"known filters: {known}")
        tests.setdefault(key, []).append(_TESTS[key](engine, value))
    return tests, "status" in tests


def matcher(value: str) -> Callable[[str], bool]:
    """Whether a text contains *value*, a regular expression; ``re`` is imported only for a real one."""
    if all(c.isalnum() or c in "_-/:" for c in value):
        return lambda text: value in text
    import re

    try:
        pattern = re.compile(value)
    except re.error as error:
        raise UsageError(f"filter {value!r} is not a regular expression: {error}") from None
    return lambda text: pattern.search(text) is not None


def _id(engine: Engine, value: str) -> Callable[[Record], bool]:
    matches = matcher(value)
    return lambda record: record[0]["id"].startswith(value) or ("^" in value and matches(record[0]["id"]))


def _name(engine: Engine, value: str) -> Callable[[Record], bool]:
    matches = matcher(value)
    return lambda record: matches(record[0]["name"])


def label_matches(labels: dict[str, str], value: str) -> bool:
    """``key`` or ``key=value``; a trailing ``*`` in the value stands for anything."""
    key, equals, wanted = value.partition("=")
    if key not in labels:
        return False
    if not equals:
        return True
    return labels[key].startswith(wanted[:-1]) if wanted.endswith("*") else labels[key] == wanted


def _label(engine: Engine, value: str) -> Callable[[Record], bool]:
    return lambda record: label_matches(record[0].get("labels") or {}, value)


def _not_label(engine: Engine, value: str) -> Callable[[Record], bool]:
    return lambda record: not label_matches(record[0].get("labels") or {}, value)


STATUSES = ("created", "initialized", "running", "stopped", "stopping", "paused", "restarting", "exited", "removing",
            "unknown")


def _status(engine: Engine, value: str) -> Callable[[Record], bool]:
    if value not in STATUSES:
        raise UsageError(f"{value} is not a valid status", f"use one of {', '.join(STATUSES)}")
    wanted = "exited" if value == "stopped" else value
    return lambda record: record[1].get("status") == wanted


def _health(engine: Engine, value: str) -> Callable[[Record], bool]:
    from rl.engine import healthcheck

    words = (*healthcheck.STATUSES, "none")
    if value not in words:
        raise UsageError(f"{value} is not a health status", f"use one of {', '.join(words)}")
    return lambda record: (healthcheck.status(engine.paths, record[0]) or "none") == value


def _exited(engine: Engine, value: str) -> Callable[[Record], bool]:
    try:
        code = int(value)
    except ValueError:
        raise UsageError(f"filter exited={value}: not an exit code") from None
    return lambda record: record[1].get("status") == "exited" and record[1].get("exit_code") == code


def _ancestor(engine: Engine, value: str) -> Callable[[Record], bool]:
    has_tag = ":" in value.rpartition("/")[2] or "@" in value

    def test(record: Record) -> bool:
        image, image_id = record[0].get("image", ""), record[0].get("image_id", "")
        if image_id and len(value) >= 3 and image_id.startswith(value.removeprefix("sha256:")):
            return True
        name = image if has_tag else image.partition("@")[0].rpartition(":")[0] or image
        return bool(name) and (name == value or name.endswith("/" + value))

    return test


def _compared_to(other_first: bool) -> Callable[[Engine, str], Callable[[Record], bool]]:
    def make(engine: Engine, value: str) -> Callable[[Record], bool]:
        other = containers.read_config(engine.paths, containers.find(engine.paths, value))["created"]
        if other_first:
            return lambda record: record[0]["created"] > other
        return lambda record: record[0]["created"] < other

    return make


def _until(engine: Engine, value: str) -> Callable[[Record], bool]:
    limit = moment_ns(value)
    return lambda record: epoch_ns(record[0]["created"]) < limit


def _volume(engine: Engine, value: str) -> Callable[[Record], bool]:
    def test(record: Record) -> bool:
        return any(
            value in (spec.get("source"), spec.get("destination")) for spec in record[0].get("mounts", [])
        )

    return test


def _network(engine: Engine, value: str) -> Callable[[Record], bool]:
    return lambda record: value in (*networks(*record), record[0].get("network", {}).get("mode", "default"))


_TESTS: dict[str, Callable[[Engine, str], Callable[[Record], bool]]] = {
    "ancestor": _ancestor,
    "before": _compared_to(other_first=False),
    "exited": _exited,
    "health": _health,
    "id": _id,
    "label": _label,
    "label!": _not_label,
    "name": _name,
    "network": _network,
    "since": _compared_to(other_first=True),
    "status": _status,
    "until": _until,
    "volume": _volume,
}
