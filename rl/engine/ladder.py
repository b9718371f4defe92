"""The capability ladder: for each need, what this host can do, what is in use and why, and how to get more.

Called by `rl info`. Every rung is asked of the part that climbs it; an error of one is an answer, not the end.
"""

from __future__ import annotations

import os

from rl.errors import RlError
from rl.runtime import cgroup, userns
from rl.runtime.cgroup import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

#: What makes an unusable storage driver usable.
_STORAGE_HINTS = {
    "overlay": "Linux 5.11 or later, and --root on a local file system (not on overlay, NFS or eCryptfs)",
    "fuse-overlayfs": "install package fuse-overlayfs; if /dev/fuse is missing: sudo modprobe fuse",
}
LOG_DRIVERS = ("k8s-file", "journald", "json-file", "none", "passthrough")


def ladder(engine: Engine) -> dict[str, Any]:
    """{need: {"inUse", "reason", "hint", "rungs": [{"name", "usable", "reason"}, …]}}; a hint where there is more."""
    needs = {"ids": _ids, "rootfs": _rootfs, "network": _network, "limits": _limits, "logs": _logs}
    return {need: _answer(rungs, engine) for need, rungs in needs.items()}


def _answer(rungs: Any, engine: Engine) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = rungs(engine)
    except RlError as error:
        answer = {"inUse": "none", "reason": error.message, "hint": error.hint, "rungs": []}
    return answer


def _rung(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "usable": not reason, "reason": reason}


def _ids(engine: Engine) -> dict[str, Any]:
    """Tried, not guessed: a child enters the namespace and looks at its map."""
    maps = userns.wanted_maps()
    mode: str = userns.call(engine.paths.run, userns.current_mode)
    why = maps.why
    if mode == "single" and not why:
        why = "newuidmap or newgidmap failed: reinstall package uidmap or shadow-utils, they must be setuid root"
    problem, _, remedy = why.partition(": ")
    if not remedy:
        problem, _, remedy = why.partition(" (")
        remedy = f"install {remedy.rstrip(')')}" if remedy else ""
    count = sum(triple[2] for triple in maps.uid)
    reason = {
        "root": f"run as root, all {count} ids are mapped to themselves",
        "full": f"{count} ids: the caller's own and those of /etc/subuid",
        "single": problem,
    }[mode]
    if mode == "root":
        return {"inUse": mode, "reason": reason, "hint": "", "rungs": [_rung("root", "")]}
    return {
        "inUse": "newuidmap" if mode == "full" else "single id", "reason": reason, "hint": remedy,
        "rungs": [_rung("newuidmap", problem), _rung("single id", "")],
    }  # fmt: skip


def _rootfs(engine: Engine) -> dict[str, Any]:
    from rl.storage import driver

    found = driver.probes(engine.paths)
    asked = engine.options.get("storage_driver") or ""
    source = "--storage-driver" if asked else driver.configured(engine.paths)[1]
    chosen = driver.choose(engine.paths, asked).name
    missing = [result["name"] for result in found[: driver.NAMES.index(chosen)] if not result["usable"]]
    reason = f"asked for by {source}" if source else "the first that works here" if missing else "the best there is"
    return {
        "inUse": chosen, "reason": reason, "hint": "; ".join(f"{name}: {_STORAGE_HINTS[name]}" for name in missing),
        "rungs": [dict(result) for result in found],
    }  # fmt: skip


def _network(engine: Engine) -> dict[str, Any]:
    from rl.network import setup

    found = setup.probes(engine.paths.run)
    chosen = setup.effective_mode({"mode": "default"}, engine.paths.run)
    better = [rung for rung in found[: [rung["name"] for rung in found].index(chosen)] if not rung["usable"]]
    reason = "the first that works here" if better else "the best there is, or the one containers.conf prefers"
    if chosen == "host":
        reason = found[0]["reason"]
    return {
        "inUse": chosen, "reason": reason, "hint": better[0]["hint"] if better else "",
        "rungs": [{key: rung[key] for key in ("name", "usable", "reason", "executable", "version")} for rung in found],
    }  # fmt: skip


#: What a user manager should have been given to hand on.
_USEFUL_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


def _limits(engine: Engine) -> dict[str, Any]:
    """systemd is asked what it may hand on: that is what limits are possible."""
    plain = cgroupfs.detect()
    no_scope, found = _systemd(plain)
    rungs = [_rung("systemd", no_scope), _rung("cgroupfs", plain.reason if plain.mode == "none" else ""),
             _rung("none", "")]
    if no_scope:
        reason = plain.reason or f"controllers {' '.join(plain.controllers)} in {plain.base}"
        answer = {"inUse": plain.mode, "reason": reason, "hint": plain.hint, "controllers": list(plain.controllers)}
    else:
        path, controllers = found
        reason = f"controllers {' '.join(controllers)} in {path}"
        if not controllers:
            reason = f"no controller is delegated to {path}: containers have cgroups, limits cannot be set"
        hint = "" if set(_USEFUL_CONTROLLERS) <= set(controllers) else cgroup.DELEGATE_HINT
        answer = {"inUse": "systemd", "reason": reason, "hint": hint, "controllers": list(controllers)}
    return {**answer, "rungs": rungs}


def _systemd(plain: cgroupfs.Support) -> tuple[str, tuple[str, tuple[str, ...]]]:
    """(why not, (cgroup of the manager, its controllers))."""
    nothing: tuple[str, tuple[str, ...]] = ("", ())
    if not os.path.exists(f"{cgroup.ROOT}/cgroup.controllers"):
        return plain.reason, nothing
    from rl.runtime.cgroup import systemd

    if not systemd.is_there():
        return f"no systemd manages this user: {systemd.private_socket(os.getuid())} does not exist", nothing
    try:
        return "", systemd.delegated()
    except RlError as error:
        return error.message, nothing


def _logs(engine: Engine) -> dict[str, Any]:
    from rl.monitor.logs_journald import problem

    return {
        "inUse": LOG_DRIVERS[0], "reason": "the default; --log-driver chooses another", "hint": "",
        "rungs": [_rung(name, problem() if name == "journald" else "") for name in LOG_DRIVERS],
    }  # fmt: skip
