"""One cgroup, version 2, as plain files: limits, freezer, kill, events, removal. Whoever made it.

Called through :mod:`rl.runtime.cgroup` by the managers, and by the engine for pause, kill and clean-up
(``Cgroup(path)``).

Source: kernel Documentation/admin-guide/cgroup-v2.rst; cgroups(7).
"""

from __future__ import annotations

import errno
import os
import select
import time

from rl.errors import RlError, StateError
from rl.runtime.cgroup.limits import MAX, Setting, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = "/sys/fs/cgroup"
#: where the processes of a cgroup go that starts to hand out controllers
LEAF = "rl-caller"

WORTH_ENABLING = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")


def own_path(pid: str = "self") -> str:
    """The cgroup v2 path of a process, as /proc/PID/cgroup names it; "" if there is none."""
    try:
        lines = read(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def read(path: str) -> str:
    """The content of a small file of the kernel."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
        return data.decode(errors="replace")
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Write *value* to a file of the kernel, in one write(2): it is one command."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def is_no_limit(setting: Setting) -> bool:
    """A setting that asks for what is the case without it."""
    if setting.problem:
        return False
    if (setting.file, setting.value) == ("memory.low", "0") or setting.value == MAX:
        return True
    return setting.file == "memory.swap.max" and not _has_swap()


def _has_swap() -> bool:
    try:
        return read("/proc/swaps").count("\n") > 1
    except OSError:
        return False


class Cgroup:
    """One container's cgroup.

    ``base``: the directory from which on down controllers may be enabled for it; ``movable``: it is the caller's own,
    whose processes may be moved aside for that.
    """

    __slots__ = ("base", "movable", "path")

    def __init__(self, path: str, base: str = "", movable: bool = False) -> None:
        self.path = path
        self.base = base or os.path.dirname(path)
        self.movable = movable

    @property
    def procs_path(self) -> str:
        """The file that takes the pid of a process to move in."""
        return f"{self.path}/cgroup.procs"

    # --- limits

    def apply(self, resources: dict[str, Any]) -> list[str]:
        """Set the limits of an OCI ``linux.resources``; returns those that could not be set, each with its reason.

        The caller turns that into a warning, or into an error with ``--limits=strict``. Raises UsageError for limits
        that contradict each other.
        """
        wanted = settings(resources)
        self.enable(sorted({setting.controller for setting in wanted if setting.controller}), may_move=True)
        _check_usage(self.path, resources)
        failed = []
        for setting in wanted:
            problem = setting.problem or self._set(setting)
            if problem and not is_no_limit(setting):
                failed.append(f"{setting.what}: {problem}")
        return failed

    def _set(self, setting: Setting) -> str:
        """Write one setting; "" or why that failed."""
        path = f"{self.path}/{setting.file}"
        try:
            write(path, setting.value)
        except FileNotFoundError:
            if setting.without:
                return self._set(setting.without)
            available = read(f"{self.path}/cgroup.controllers").split()
            if setting.controller and setting.controller not in available:
                return f"controller {setting.controller} is not available"
            return f"this kernel has no {setting.file}"
        except OSError as error:
            return f"write {setting.value} to {path}: {error.strerror}"
        return ""

    def enable(self, controllers: list[str], may_move: bool) -> None:
        """Hand *controllers* down from the base to this cgroup, as far as possible.

        With *may_move*, processes that stand in the way step aside into :data:`LEAF`; what could not be enabled shows
        when its files are missing.
        """
        relative = os.path.relpath(self.path, self.base)
        step = self.base
        for part in relative.split("/"):
            _enable(step, controllers, may_move and self.movable and step == self.base)
            step = f"{step}/{part}"

    # --- state

    def pids(self) -> list[int]:
        """Processes in here and in the cgroups below, as this process's pid namespace numbers them."""
        found = []
        for path in self._tree():
            try:
                found += [int(line) for line in read(f"{path}/cgroup.procs").split()]
            except OSError:
                continue  # gone meanwhile
        return found

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for memory; 0 without the memory controller."""
        return self._event("memory.events", "oom_kill")

    def _event(self, file: str, name: str) -> int:
        try:
            lines = read(f"{self.path}/{file}").splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)

    def _tree(self) -> list[str]:
        """This cgroup's directory and those below it, the deepest first."""
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found += Cgroup(entry.path)._tree()
        except OSError:
            return []
        return [*found, self.path]

    # --- actions

    def freeze(self, timeout: float = 10.0) -> None:
        """Stop all processes in here and return when they stand. Raises RlError after *timeout* seconds."""
        self._set_frozen(1, timeout)

    def thaw(self, timeout: float = 10.0) -> None:
        """Let them go on."""
        self._set_frozen(0, timeout)

    def _set_frozen(self, value: int, timeout: float) -> None:
        verb = "freeze" if value else "thaw"
        try:
            write(f"{self.path}/cgroup.freeze", str(value))
        except OSError as error:
            raise RlError(f"{verb} cgroup {self.path}: {error.strerror}") from None
        self.wait_frozen(value, timeout)

    def wait_frozen(self, value: int, timeout: float = 10.0) -> None:
        """Until all processes stand (1) or go on (0), which was asked for. Raises RlError after *timeout* seconds."""
        verb = "freeze" if value else "thaw"
        try:
            events = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RlError(f"{verb} cgroup {self.path}: {error.strerror}") from None
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            end = time.monotonic() + timeout
            while f"frozen {value}\n".encode() not in os.pread(events, 4096, 0):
                left = end - time.monotonic()
                if left <= 0:
                    raise RlError(f"{verb} cgroup {self.path}: not done after {timeout:g} s")
                poll.poll(left * 1000)
        finally:
            os.close(events)

    def kill(self) -> None:
        """SIGKILL to every process in here and below, those that are just being forked included."""
        try:
            write(f"{self.path}/cgroup.kill", "1")
        except FileNotFoundError:
            if os.path.isdir(self.path):
                self._kill_one_by_one()
        except OSError as error:
            raise RlError(f"kill cgroup {self.path}: {error.strerror}") from None

    def _kill_one_by_one(self) -> None:
        """Before Linux 5.14: nothing forks while it is frozen, and SIGKILL reaches frozen processes."""
        self.freeze()
        for pid in self.pids():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.thaw()

    def stats(self) -> dict[str, Any]:
        """The ``data`` of `runc events --stats`."""
        from rl.runtime.cgroup.stats import stats

        return stats(self.path)

    def remove(self, timeout: float = 2.0) -> None:
        """Remove this cgroup and those below. What has just been killed may need a moment: up to *timeout* seconds.

        The systemd scope whose leaf it is goes with it, unless others live there. Raises StateError while processes
        live in it.
        """
        self._remove_directories(timeout)
        above, leaf = os.path.split(self.path)
        if leaf == "container" and above.endswith(".scope") and os.path.isdir(above):
            from rl.runtime.cgroup import systemd

            systemd.collect(above)

    def _remove_directories(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        pause = 0.001
        while True:
            busy = [path for path in self._tree() if not _rmdir(path)]
            if not busy:
                return
            if time.monotonic() > end:
                raise StateError(f"remove cgroup {busy[0]}: it still holds processes", "end them first")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise RlError(f"remove cgroup {path}: {error.strerror}") from None
    return True


def _check_usage(path: str, resources: dict[str, Any]) -> None:
    """``checkBeforeUpdate``: refuse a memory limit below what is in use, where it would start the OOM killer."""
    memory = resources.get("memory") or {}
    if not memory.get("checkBeforeUpdate") or (memory.get("limit") or -1) < 0:
        return
    try:
        used = int(read(f"{path}/memory.current"))
    except OSError:
        return
    if used > memory["limit"]:
        raise StateError(f"set a memory limit of {memory['limit']} bytes: {used} are in use", "choose a higher limit")


def _enable(path: str, controllers: list[str], may_move: bool) -> None:
    """Add *controllers* to cgroup.subtree_control of *path*; what it does not have is left out."""
    control = f"{path}/cgroup.subtree_control"
    try:
        available = read(f"{path}/cgroup.controllers").split()
        missing = [name for name in controllers if name in available and name not in read(control).split()]
    except OSError:
        return
    if not missing or (_holds_processes(path) and not (may_move and _cleared(path))):
        return  # the controllers stay off, and apply() says so where that matters
    _try_write(control, " ".join("+" + name for name in missing))
    for name in missing:  # one by one: one that is refused does not cost the others
        if name not in read(control).split():
            _try_write(control, "+" + name)


def _holds_processes(path: str) -> bool:
    """Whether processes stand in the way of handing out controllers; in the root of the hierarchy they do not.

    The kernel would still hand out cpu and pids, by making the cgroup the root of a threaded subtree: then no process
    can enter the cgroups below, which are "domain invalid" (EOPNOTSUPP).
    """
    try:
        return os.path.exists(f"{path}/cgroup.type") and bool(read(f"{path}/cgroup.procs").strip())
    except OSError:
        return True  # cannot be read: threaded already


def _cleared(path: str) -> bool:
    """Whether the processes of *path* could be moved aside."""
    try:
        step_aside(path, LEAF)
    except OSError:
        pass
    return not _holds_processes(path)


def _try_write(path: str, value: str) -> int:
    """Write; returns the errno, 0 when it worked."""
    try:
        write(path, value)
    except OSError as error:
        return error.errno or -1
    return 0


def step_aside(path: str, leaf: str) -> None:
    """Move the processes of *path* into cgroup *leaf* below it; new ones may be forked meanwhile, so look again."""
    os.makedirs(f"{path}/{leaf}", exist_ok=True)
    for _ in range(20):
        pids = read(f"{path}/cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            _try_write(f"{path}/{leaf}/cgroup.procs", pid)  # ESRCH: it has ended
