"""Control groups, version 2: who makes a container's cgroup, and what it then is.

One :class:`Manager` for each way, a file each: ``systemd`` (a transient scope, made by the systemd that manages the
user), ``cgroupfs`` (plain files in a subtree the caller may write) and ``disabled`` (none, and the reason). What they
make is a :class:`Cgroup`, in ``group``; ``limits`` translates what OCI calls resources, ``stats`` reads the figures.

Called by the engine's launch (:mod:`rl.engine.cgroups`), by `rl-runtime` (:func:`manager`), and by whoever needs a
container's cgroup later: ``Cgroup(path)``.
"""

from __future__ import annotations

import os

from rl.errors import UsageError
from rl.kernel.proc import outer_uid
from rl.runtime.cgroup import cgroupfs
from rl.runtime.cgroup.cgroupfs import DELEGATE_HINT, PREFIX, Support, create, unmet
from rl.runtime.cgroup.group import LEAF, ROOT, WORTH_ENABLING, Cgroup, own_path, read, step_aside, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Manager(Protocol):
        """How one container comes by its cgroup. The order: prepare, attach, apply.

        ``path`` is the cgroup's directory ("" without one; systemd knows it after attach), ``procs_path`` its
        ``cgroup.procs``, for a process that is to be born there; "" where it can only be placed once it has a pid.
        """

        kind: str  # systemd | cgroupfs | disabled
        path: str
        procs_path: str

        def prepare(self) -> None:
            """Before the process exists."""

        def attach(self, pid: int) -> None:
            """Place process *pid*, which waits and has not made its cgroup namespace yet."""

        def apply(self, resources: dict[str, Any]) -> list[str]:
            """Set limits (OCI ``linux.resources``); those that could not be set, each with its reason."""


__all__ = [
    "DELEGATE_HINT", "KINDS", "LEAF", "PREFIX", "ROOT", "WORTH_ENABLING", "Cgroup", "Support", "create", "detect",
    "manager", "outer_uid", "own_path", "read", "step_aside", "unmet", "write",
]  # fmt: skip

KINDS = ("systemd", "cgroupfs", "disabled")


def detect(root: str = ROOT) -> Support:
    """The best this host offers: systemd's scopes, a subtree of one's own, or none and why. Asks nobody.

    With mode systemd the controllers are not known yet (:func:`rl.runtime.cgroup.systemd.delegated` asks).
    """
    if root == ROOT and os.path.exists(f"{root}/cgroup.controllers") and _has_systemd():
        return Support("systemd", root, own_path())
    return cgroupfs.detect(root)


def _has_systemd() -> bool:
    """Whether a systemd manages this user. The two places where it always is are looked at before importing more."""
    uid = outer_uid()
    places = ("/run/systemd/private",) if uid == 0 else (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}")
    if not any(os.path.exists(place if uid == 0 else f"{place}/systemd") for place in places):
        return False
    from rl.runtime.cgroup import systemd

    return systemd.is_there()


def manager(kind: str, cgroups_path: str, container_id: str, description: str = "") -> Manager:
    """The manager *kind* for a container with ``linux.cgroupsPath`` *cgroups_path* ("" if there is none).

    cgroupfs: an absolute path counts from the root of the hierarchy, any other from the caller's own subtree; systemd:
    ``slice:prefix:name``. A host without version 2 alone, or a caller without a subtree who asked for no path, gets
    the disabled one, which knows the reason. Raises UsageError for a path of the wrong form, UnsupportedError where
    systemd was asked for and is not there.
    """
    from rl.runtime.cgroup import disabled

    if kind not in KINDS:
        raise UsageError(f"cgroup manager {kind!r} is not known", f"use one of: {', '.join(KINDS)}")
    if kind == "disabled":
        return disabled.Disabled("the cgroup manager is disabled", "choose another with --cgroup-manager")
    if not os.path.exists(f"{ROOT}/cgroup.controllers"):
        support = cgroupfs.detect()
        return disabled.Disabled(support.reason, support.hint)
    if kind == "systemd":
        from rl.runtime.cgroup import systemd

        return systemd.for_path(cgroups_path, container_id, description or f"container {container_id}")
    if cgroups_path.startswith("/"):
        return cgroupfs.Cgroupfs(ROOT, cgroups_path.strip("/"))
    support = cgroupfs.detect()
    if support.mode == "none":
        if cgroups_path:
            raise UsageError(f"linux.cgroupsPath {cgroups_path}: {support.reason}", support.hint)
        return disabled.Disabled(support.reason, support.hint)
    return cgroupfs.Cgroupfs(support.base, cgroups_path or PREFIX + container_id, movable=True)
