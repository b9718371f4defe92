"""The capability ladder: for each need, what this host can do, what is in use and why, and how to get more.

Called by `rl info`. Every rung is asked of the part that climbs it; an error of one is an answer, not the end.
"""

from __future__ import annotations

from rl.errors import RlError
from rl.runtime import cgroup, userns

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


def _limits(engine: Engine) -> dict[str, Any]:
    support = cgroup.detect()
    reason = support.reason or f"controllers {' '.join(support.controllers)} in {support.base}"
    rungs = [_rung("cgroupfs", support.reason if support.mode == "none" else ""), _rung("none", "")]
    return {"inUse": support.mode, "reason": reason, "hint": support.hint, "rungs": rungs}


def _logs(engine: Engine) -> dict[str, Any]:
    from rl.monitor.logs_journald import problem

    return {
        "inUse": LOG_DRIVERS[0], "reason": "the default; --log-driver chooses another", "hint": "",
        "rungs": [_rung(name, problem() if name == "journald" else "") for name in LOG_DRIVERS],
    }  # fmt: skip
