"""The cgroup of a container that is being launched: which manager makes it, who goes where, which limits it has.

Called by the monitor's launch. With a systemd user manager (``--cgroups=enabled``, the default)::

    user.slice/rl-<id>.scope/        asked for first, so that systemd works while files are mounted
        supervisor/                  this monitor, pasta, fuse-overlayfs
        container/                   the container: limits, freezer, kill; state.json names it

so a container outlives the login session it was started from. Called by a service of systemd's, the monitor stays in
the service's cgroup, as with ``no-conmon``: the service lives as long as the container, and stopping it stops that.
Where no systemd is, the container gets a plain cgroup in the subtree that the caller may write.

Source: podman-run(1), ``--cgroups``, ``--cgroup-parent``.
"""

from __future__ import annotations

import _signal
import os

from rl.config import containersconf
from rl.engine.spec import limits
from rl.errors import RlError, StateError, UnsupportedError, UsageError
from rl.runtime import cgroup
from rl.runtime.cgroup import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.runtime.cgroup.systemd import Scope

MODES = ("enabled", "disabled", "no-conmon", "split")
SUPERVISOR, PAYLOAD = "supervisor", "container"
#: Seconds after the container's own stop timeout, before systemd kills what is left of a scope being stopped.
_GRACE = 10


def check(options: dict[str, Any]) -> tuple[str, str]:
    """(mode, parent) of ``--cgroups`` and ``--cgroup-parent``. Raises UsageError for what does not go together."""
    mode, parent = options.get("cgroups") or "enabled", options.get("cgroup_parent") or ""
    if mode not in MODES:
        raise UsageError(f"--cgroups: {mode!r} is not a mode", f"use one of: {', '.join(MODES)}")
    if parent and mode in ("disabled", "split"):
        raise UsageError(f"--cgroup-parent cannot be used with --cgroups={mode}", "leave out one of them")
    if mode == "disabled" and options.get("cgroupns"):
        raise UsageError("--cgroupns cannot be used with --cgroups=disabled", "leave out one of them")
    if ".." in parent.split("/"):
        raise UsageError(f"--cgroup-parent {parent}: must not contain ..", "name the cgroup, or the slice, itself")
    return mode, parent


#: Flags that decide about the scope: with one of them it has to wait for the whole command line.
_DECIDING = ("--cgroup", "--stop-timeout")
_STOP_TIMEOUT = 10  # seconds, the default of --stop-timeout


def configured(run: str) -> str:
    """The manager that containers.conf wishes for instead of the best one: "cgroupfs" or ""; systemd is the best one.

    *run* is Paths.run. Raises RlError for a containers.conf that is wrong.
    """
    return "cgroupfs" if containersconf.load(run).get("engine.cgroup_manager") == "cgroupfs" else ""


def early(run: str, container_id: str, argv: list[str]) -> Scope | None:
    """The scope of `rl run`, asked for before anything else is known: systemd takes 20 ms, which so cost nothing.

    None where the command line may want something else, or there is no systemd: then the launch does what it has to.
    """
    if any(word.startswith(_DECIDING) for word in argv) or cgroup.detect().mode != "systemd" or _in_service():
        return None
    scope = _scope(container_id, "", _STOP_TIMEOUT + _GRACE)
    try:
        if configured(run) or containersconf.load(run).get("containers.cgroups", "enabled") != "enabled":
            return None
        _begin(scope)
    except RlError:
        return None
    return scope


def _in_service() -> bool:
    """Whether systemd runs us as a service. INVOCATION_ID alone is inherited by every shell of a desktop."""
    return "INVOCATION_ID" in os.environ and cgroup.own_path().endswith(".service")


def _scope(container_id: str, parent: str, stop_seconds: int) -> Scope:
    from rl.runtime.cgroup import systemd

    systemd.check_slice(parent)
    above = parent or ("user.slice" if cgroup.outer_uid() else "machine.slice")
    return systemd.Scope(f"rl-{container_id}.scope", above, f"rl container {container_id[:12]}", stop_seconds)


def _begin(scope: Scope) -> None:
    """From here on `systemctl stop` may come: it waits for the monitor's loop. Whatever is executed unblocks it."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGURG,))
    scope.begin([os.getpid()])


class Placement:
    """Brings the container, this monitor and its helpers into their cgroups: ``begin``, ``finish``, ``adopt``.

    *refused* is called once with all limits that cannot be had and a hint; *scope* is one begun :func:`early`, *wanted*
    the manager asked for by name (``--cgroup-manager``).
    ``place`` is then what the runtime has to call with the pid of the waiting process, if the cgroup is made around
    that; ``group`` the container's cgroup, None where there is none (yet). ``affinity``: the CPUs that its process is
    to be bound to, where no cgroup can do that.
    """

    __slots__ = (
        "_limits", "_mode", "_no_scope", "_parent", "_refused", "_scope", "_stop_seconds", "_wanted", "affinity",
        "group", "id", "manager", "place", "warnings",
    )  # fmt: skip

    def __init__(
        self, config: ContainerConfig, wanted_limits: dict[str, Any], refused: Callable[[str, str], None],
        scope: Scope | None = None, wanted: str = "",
    ) -> None:  # fmt: skip
        self.id = config["id"]
        self._mode, self._parent = check(config["options"])
        if self._mode == "enabled" and _in_service():
            self._mode = "no-conmon"
        self._stop_seconds = config.get("stop_timeout", 10) + _GRACE
        self._limits = wanted_limits
        self._refused = refused
        self._scope = scope
        self._wanted = wanted
        self._no_scope = False  # systemd was asked and could not
        self.warnings: list[str] = []
        self.affinity: list[int] = []
        self.group: cgroup.Cgroup | None = None
        self.place: Callable[[int], str] | None = None
        self.manager = ""  # who made it, for the record: systemd, cgroupfs, "" for nobody

    def begin(self) -> None:
        """Ask systemd for the scope, if it will be one and nobody has yet; does not wait."""
        if self._own_scope():
            return
        if self._scope is None and self._mode == "enabled" and self._by_systemd():
            try:
                self._scope = self._new_scope()
                _begin(self._scope)
            except RlError as error:
                self._without_scope(error)

    def _own_scope(self) -> str:
        """The cgroup of the container's scope where we are in it: it is started again. Else ""."""
        own = cgroup.own_path()
        return cgroup.ROOT + own[: -len(SUPERVISOR) - 1] if own.endswith(f"/rl-{self.id}.scope/{SUPERVISOR}") else ""

    def _by_systemd(self) -> bool:
        """Whether a scope is to be had and wanted; one asked for by name must be (--cgroup-manager)."""
        there = self._wanted != "cgroupfs" and cgroup.detect().mode == "systemd"
        if self._wanted == "systemd" and not there:
            reason = cgroupfs.detect().reason if not os.path.exists(f"{cgroup.ROOT}/cgroup.controllers") else ""
            raise UnsupportedError(
                f"--cgroup-manager=systemd: {reason or 'no systemd manages this user'}", "leave it out, or use cgroupfs"
            )
        return there

    def _without_scope(self, error: RlError) -> None:
        """The next rung, said aloud; not if a slice was asked for by name."""
        if self._parent or self._wanted:
            raise error
        self.warnings.append(f"no systemd scope for the container: {error.message}")
        self._scope, self._no_scope = None, True

    def _new_scope(self) -> Scope:
        # Without a monitor inside, nobody would understand the special signal.
        return _scope(self.id, self._parent, self._stop_seconds if self._mode == "enabled" else 0)

    def finish(self) -> None:
        """Make the container's cgroup and set its limits. Raises RlError."""
        if self._mode == "disabled":
            self._refuse_all("--cgroups=disabled", "leave it out")
        elif self._mode == "split":
            self._split()
        elif self._scope is None and (above := self._own_scope()):
            from rl.runtime.cgroup import systemd

            self._take("systemd", systemd.leaf(above, PAYLOAD), above)
        elif self._scope is not None and self._finish_scope(self._scope):
            pass
        elif not self._no_scope and self._by_systemd():
            self.place = self._place
        else:
            self._plain()

    def _finish_scope(self, scope: Scope) -> bool:
        from rl.runtime.cgroup import systemd

        try:
            scope.finish()
        except RlError as error:
            self._without_scope(error)
            return False
        try:
            cgroup.step_aside(scope.directory, SUPERVISOR)  # first: what holds processes cannot hand down controllers
        except OSError as error:
            raise RlError(f"divide cgroup {scope.directory}: {error.strerror}") from None
        self._take("systemd", systemd.leaf(scope.directory, PAYLOAD), scope.directory)
        return True

    def adopt(self, helpers: list[int]) -> None:
        """Helpers that were forked before systemd had moved this monitor follow it; they would end with the session."""
        scope = self._scope
        if scope is None or not scope.directory:
            return
        inside = scope.directory.removeprefix(cgroup.ROOT) + "/"
        late = [pid for pid in helpers if not cgroup.own_path(str(pid)).startswith(inside)]
        if late:
            from rl.runtime.cgroup import systemd

            systemd.attach(scope.unit, f"/{SUPERVISOR}", late)

    def _place(self, pid: int) -> str:
        """``no-conmon`` with systemd: make the scope around the container's process; its ``cgroup.procs``."""
        from rl.runtime.cgroup import systemd

        scope = self._new_scope()
        scope.begin([pid])
        scope.finish()
        self._take("systemd", systemd.leaf(scope.directory, PAYLOAD, pid), scope.directory)
        assert self.group is not None
        return self.group.procs_path

    def _plain(self) -> None:
        support = cgroupfs.detect()
        if self._parent.endswith(".slice"):
            raise UnsupportedError(
                f"--cgroup-parent {self._parent}: no systemd is used here that manages slices",
                "name a cgroup below the caller's own instead: --cgroup-parent=NAME",
            )
        if support.mode == "none":
            if self._parent:
                raise UnsupportedError(f"--cgroup-parent {self._parent}: {support.reason}", support.hint)
            self._refuse_all(support.reason, support.hint)
            return
        self.group = cgroup.create(support, self.id, self._parent)
        self.manager = "cgroupfs"
        self._limit(support.hint)

    def _split(self) -> None:
        """The present cgroup in two: it must be a delegated unit's own, for all that is in it goes to one side."""
        own = cgroup.own_path()
        scope = cgroup.ROOT + own
        if own.endswith(f"/{SUPERVISOR}"):
            scope = scope[: -len(SUPERVISOR) - 1]
        _check_splittable(scope)
        payload = f"{scope}/{PAYLOAD}"
        if os.path.isdir(payload) and cgroup.Cgroup(payload).pids():
            raise StateError(f"--cgroups=split: a container is in {payload} already", "one container for each unit")
        try:
            os.makedirs(payload, exist_ok=True)
            cgroup.step_aside(scope, SUPERVISOR)
        except OSError as error:
            raise RlError(f"--cgroups=split: divide {scope}: {error.strerror}", _SPLIT_HINT) from None
        self._take("cgroupfs", payload, scope)

    def _take(self, manager: str, path: str, above: str) -> None:
        self.manager = manager
        self.group = cgroup.Cgroup(path, above)
        self.group.enable(list(cgroup.WORTH_ENABLING), may_move=False)
        self._limit(cgroup.DELEGATE_HINT)

    def _limit(self, hint: str) -> None:
        assert self.group is not None
        refused = self.group.apply(self._limits) if self._limits else []
        if refused:
            instead = self._bind() if any(text.startswith("cpuset cpus") for text in refused) else ""
            self._refused(f"limit not enforced: {'; '.join(refused)}{instead}", hint)

    def _refuse_all(self, reason: str, hint: str) -> None:
        if self._limits:
            self._refused(f"resource limits are not enforced: {reason}{self._bind()}", hint)

    def _bind(self) -> str:
        """For CPUs there is something beside cgroups, though programs in the container can undo it; says so."""
        cpus = (self._limits.get("cpu") or {}).get("cpus")
        if not cpus:
            return ""
        self.affinity = limits.numbers(cpus)
        return f". CPU affinity binds it to CPUs {cpus} instead, which the container can change"

    def undo(self) -> None:
        """The launch has failed."""
        if self._scope is not None:
            self._scope.cancel()
        if self.group is not None:
            self.group.remove()


_SPLIT_HINT = "run it in a unit of its own: systemd-run --user --scope -p Delegate=yes rl run --cgroups=split …"


def _check_splittable(path: str) -> None:
    """Raises UnsupportedError unless *path* is ours to divide."""
    support = cgroup.detect()
    if support.mode == "none":
        raise UnsupportedError(f"--cgroups=split: {support.reason}", support.hint)
    if not os.access(f"{path}/cgroup.procs", os.W_OK) or not os.access(path, os.W_OK):
        raise UnsupportedError(f"--cgroups=split: the present cgroup {path} is not delegated", _SPLIT_HINT)
    if support.mode == "systemd":
        from rl.runtime.cgroup import systemd

        if not systemd.is_delegated(os.path.basename(path)):
            what = f"--cgroups=split: the present cgroup {path} is systemd's own, without Delegate=yes"
            raise UnsupportedError(what, _SPLIT_HINT)
