"""Control groups by plain files, in the subtree the caller may write; or the reason why there is none.

Called through :mod:`rl.runtime.cgroup`.

A cgroup that hands controllers to its children must not hold processes itself ("no internal processes"). So the
containers' cgroups are made below the caller's own, and when the first limit is asked for, the processes in there,
the caller's shell among them, step aside into a leaf of it, :data:`~rl.runtime.cgroup.group.LEAF`; a later rl that
starts in that leaf uses the one above. Nothing outside the caller's own cgroup is touched.

Source: kernel Documentation/admin-guide/cgroup-v2.rst, "Delegation"; cgroups(7).
"""

from __future__ import annotations

import os

from rl.errors import RlError, StateError, UnsupportedError, UsageError
from rl.kernel.proc import outer_uid
from rl.runtime.cgroup.group import LEAF, ROOT, WORTH_ENABLING, Cgroup, is_no_limit, own_path, read, write
from rl.runtime.cgroup.limits import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "rl-"
#: The drop-in that has systemd hand all useful controllers to users.
DELEGATE_HINT = (
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo install -D /dev/stdin"
    " /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload, and log in again"
)


class Support:
    """What this host offers: ``mode`` systemd, cgroupfs or none; ``reason`` and ``hint`` say why none and what to do.

    ``base`` is the directory the containers' cgroups are made in, ``own`` the caller's cgroup as the kernel
    names it, ``controllers`` what can limit something here (with an explaining ``reason`` when it is little).
    """

    __slots__ = ("base", "controllers", "hint", "mode", "own", "reason", "root")

    def __init__(
        self, mode: str, root: str, own: str, base: str = "", controllers: tuple[str, ...] = (),
        reason: str = "", hint: str = "",
    ) -> None:  # fmt: skip
        self.mode = mode
        self.root = root
        self.own = own
        self.base = base
        self.controllers = controllers
        self.reason = reason
        self.hint = hint


def detect(root: str = ROOT) -> Support:
    """Look where this process is and what it may do there by plain files; a few file accesses, no writes."""
    own = own_path()
    if not os.path.exists(f"{root}/cgroup.controllers"):
        if not os.path.isdir(root) or not os.listdir(root):
            return Support(
                "none", root, own,
                reason=f"no cgroup file system is mounted on {root}", hint=f"sudo mount -t cgroup2 cgroup2 {root}",
            )  # fmt: skip
        return Support(
            "none", root, own,
            reason="this host uses cgroup v1, or v1 and v2 side by side; limits without root need v2 alone",
            hint="boot with systemd.unified_cgroup_hierarchy=1 on the kernel command line",
        )  # fmt: skip
    if not own.startswith("/") or own.startswith("/.."):
        return Support(
            "none", root, own,
            reason=f"the cgroup of this process ({own or 'none'}) is outside of what {root} shows",
            hint="start rl in the cgroup namespace whose file system is mounted there",
        )  # fmt: skip
    base = root + own.rstrip("/")
    if base.endswith("/" + LEAF):
        base = base[: -len(LEAF) - 1]
    for name in ("", "/cgroup.procs", "/cgroup.subtree_control"):
        if not os.access(base + name, os.W_OK):
            return _not_ours(root, own, base)
    controllers = tuple(read(f"{base}/cgroup.controllers").split())
    if controllers:
        return Support("cgroupfs", root, own, base, controllers)
    return Support(
        "cgroupfs", root, own, base,
        reason=f"no controller is delegated to {own}", hint=DELEGATE_HINT,
    )  # fmt: skip


def _not_ours(root: str, own: str, base: str) -> Support:
    if os.path.isdir(base) and os.statvfs(base).f_flag & os.ST_RDONLY:
        reason = f"{base} is mounted read-only"
        hint = "inside a container, start that one with a writable /sys/fs/cgroup"
    else:
        uid = outer_uid()
        reason = f"the cgroup of this process ({own}) is not delegated to uid {uid}"
        hint = f"sudo chown {uid} {base} {base}/cgroup.procs {base}/cgroup.subtree_control"
        if os.path.exists(f"/run/user/{uid}/systemd/private"):
            hint = "start it as: systemd-run --user --scope -p Delegate=yes rl …"
    return Support("none", root, own, reason=reason, hint=hint)


def unmet(support: Support, resources: dict[str, Any]) -> list[str]:
    """What of *resources* cannot be had where there is no cgroup at all: every limit, with the reason."""
    return [f"{setting.what}: {support.reason}" for setting in settings(resources) if not is_no_limit(setting)]


def create(support: Support, container_id: str, parent: str = "") -> Cgroup:
    """Make the cgroup of a container; one left behind under its name is taken over if it is empty.

    *parent* (``--cgroup-parent``): relative to the base, or absolute in the hierarchy. Controllers are enabled where
    that takes nothing more; :meth:`Cgroup.apply` does more for a limit. Raises UnsupportedError with mode none, RlError
    where it cannot be made.
    """
    if support.mode == "none":
        raise UnsupportedError(f"create a cgroup: {support.reason}", support.hint)
    if ".." in parent.split("/"):
        raise UsageError(f"cgroup parent {parent}: must not contain ..")
    above = base = support.base
    if parent.startswith("/"):
        above = base = support.root + parent.rstrip("/")
    elif parent:
        above = f"{base}/{parent.rstrip('/')}"
    path = f"{above}/{PREFIX}{container_id}"
    make(path)
    cgroup = Cgroup(path, base, movable=base == support.base)
    cgroup.enable([name for name in support.controllers if name in WORTH_ENABLING], may_move=False)
    return cgroup


class Cgroupfs:
    """The manager of a cgroup at ``above/relative``; with *movable*, *above* is the caller's own (see the top)."""

    kind = "cgroupfs"

    def __init__(self, above: str, relative: str, movable: bool = False) -> None:
        if not relative or ".." in relative.split("/"):
            raise UsageError(f"cgroup path {relative!r}: must name a cgroup, without ..")
        self.path = f"{above}/{relative}"
        self.procs_path = f"{self.path}/cgroup.procs"
        self._cgroup = Cgroup(self.path, above, movable)

    def prepare(self) -> None:
        """Make it; one left behind is taken over if it is empty. Raises RlError, StateError."""
        make(self.path)
        self._cgroup.enable(list(WORTH_ENABLING), may_move=False)

    def attach(self, pid: int) -> None:
        """Move a process in that was not born here. Raises RlError."""
        try:
            write(self.procs_path, str(pid))
        except OSError as error:
            raise RlError(f"move process {pid} into cgroup {self.path}: {error.strerror}") from None

    def apply(self, resources: dict[str, Any]) -> list[str]:
        """As :meth:`Cgroup.apply`."""
        return self._cgroup.apply(resources)


def make(path: str) -> None:
    """Make the cgroup *path* for a container. Raises StateError if somebody lives in it, RlError if it cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
        if read(f"{path}/cgroup.procs").strip():
            raise StateError(f"create cgroup {path}: it exists and holds processes", "end them, or use another name")
    except OSError as error:
        what = f"create cgroup {path}: {error.strerror}"
        raise RlError(what, f"{os.path.dirname(path)} must be writable by uid {outer_uid()}") from None
