"""A further process in a running container: join by pidfd, then the same steps as the container's own.

Called by :mod:`rl.engine.exec` in the command line's process, which is outside of all namespaces of the
container and stays there: a child joins, and makes the process as its sibling (CLONE_PARENT), so that the
caller is the parent and gets the exit code. Source: setns(2) with a pidfd, Linux 5.8.
"""

from __future__ import annotations

import _socket
import os

from rl.errors import RlError, StateError
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import launcher, process, rlimits, spawning, terminal
from rl.runtime.spawning import Created
from rl.runtime.sync import Io, Setup, Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FILES = (
    ("user", ns.CLONE_NEWUSER), ("mnt", ns.CLONE_NEWNS), ("pid", ns.CLONE_NEWPID), ("net", ns.CLONE_NEWNET),
    ("ipc", ns.CLONE_NEWIPC), ("uts", ns.CLONE_NEWUTS), ("cgroup", ns.CLONE_NEWCGROUP), ("time", ns.CLONE_NEWTIME),
)


def spawn(
    target_pid: int, target_pidfd: int, specification: dict[str, Any], io: Io, *, cgroup_procs: str = "",
    place: Callable[[int], object] | None = None, seccomp_program: bytes | None = None, seccomp_flags: int = 0,
    profile: dict[str, Any] | None = None, state: dict[str, Any] | None = None,
    decide: Callable[[int, dict[str, Any]], None] | None = None, die_with_parent: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> Created:
    """Start a process beside *target_pid*, the container's init, which *target_pidfd* stands for.

    *specification*: {"process": an OCI process, with ``terminal`` for a pty}, and the container's
    ``linux.personality``. *cgroup_procs* is the ``cgroup.procs`` of the container's cgroup, "" where it has none;
    *place* is called with a pid that may not be written there by itself and needs another's hand.
    *profile* is the OCI object that *seccomp_program* is made of and *state* the container's state document: a
    seccomp agent gets them. *decide* is called inside the container with its root directory's descriptor and the
    process, to fill in what must be looked up there: the user. *die_with_parent*: it ends with the caller.
    *meanwhile* is called once, while the container is joined. Returns when the command runs:
    ``pid`` is a child of the caller, ``master`` its terminal. Raises CommandNotFoundError (127),
    CommandNotExecutableError (126), StateError when the container ends meanwhile, RlError.
    """
    parent_end, child_end = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    created = Created(parent_end, specification)
    setup = Setup(specification, specification["process"], io, Sync(child_end, parent_end, wait=False))
    setup.cgroup_procs = [cgroup_procs] if cgroup_procs else []
    created.place, created.meanwhile = place, meanwhile
    setup.seccomp, setup.seccomp_flags = seccomp_program, seccomp_flags
    setup.make_cwd = False
    setup.die_with_parent = die_with_parent
    steps = STEPS if decide is None else (("find the user", _deciding(decide)), *STEPS)
    try:
        try:
            setup.exposed = launcher.exposed(target_pid=target_pid) and launcher.permitted(seccomp_program)
            setup.flags = _differing(target_pid)
            setup.setgroups_denied = _setgroups_denied(target_pid)
            setup.fds = {"target": target_pidfd}
            process.prepare(setup, profile, state or {}, created.warnings)
            setup.movable = place is not None
            spawning.fork_beside(setup, created, _join, 0, steps)
        finally:
            child_end.close()
            for fd in (setup.proc, setup.agent):
                if fd >= 0:
                    os.close(fd)
        spawning.until_ready(created)
        spawning.until_running(created)
    except BaseException:
        created.abandon()
        raise
    return created


def by_systemd(cgroup: str, warn: Callable[[str], object]) -> Callable[[int], None]:
    """For *place*: systemd's hand moves a process into *cgroup*, in a scope of its making, out of a login session too.

    Where it does not, *warn* is told: the process then runs without the container's limits.
    """
    above, _, below = cgroup.rpartition(".scope/")

    def place(pid: int) -> None:
        from rl.runtime.cgroup import systemd

        try:
            systemd.attach(f"{above.rpartition('/')[2]}.scope", f"/{below}", [pid])
        except RlError as error:
            warn(f"the container's limits do not count for this process: {error.message}")

    return place


def _differing(pid: int) -> int:
    """The namespaces of *pid* that are not ours: joining one that is shared with the host would be refused."""
    flags = 0
    try:
        for name, flag in _FILES:
            try:
                theirs = os.stat(f"/proc/{pid}/ns/{name}")
            except FileNotFoundError:
                if name == "user":
                    raise
                continue  # a kernel without this kind
            if not os.path.samestat(theirs, os.stat(f"/proc/self/ns/{name}")):
                flags |= flag
    except (FileNotFoundError, ProcessLookupError):
        raise StateError("the container has just ended", "`rl ps -a` shows its state") from None
    except PermissionError:
        raise RlError(
            f"look into the container's process {pid}: permission denied", "is it a container of another user?"
        ) from None
    return flags


def _setgroups_denied(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/setgroups", encoding="utf-8") as file:
            return file.read().strip() == "deny"
    except OSError:
        return False


def _join(setup: Setup) -> None:
    """In the first child: go where the container is. A user namespace first, then all others in one call."""
    affinity(setup, "initial")
    try:
        spawning.enter_cgroup(setup)
    except OSError as error:
        # From a cgroup that is not delegated to the user (a login session) one may not move into one that is.
        if setup.movable:
            setup.sync.ask(b"C")
        else:
            why = f"the container's limits do not count for this process: enter {setup.cgroup_procs[0]}"
            setup.sync.tell(b"W", f"{why}: {error.strerror}".encode())
    if setup.flags & ns.CLONE_NEWUSER:
        rlimits.raise_for(0, setup.process)
    spawning.oom_score(setup)
    # Processes of the container could otherwise trace us as soon as we are in its pid namespace.
    kp.prctl(kp.PR_SET_DUMPABLE, 0)
    pidfd = setup.fds["target"]
    try:
        if setup.flags & ns.CLONE_NEWUSER:
            ns.setns(pidfd, ns.CLONE_NEWUSER)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            kp.prctl(kp.PR_SET_DUMPABLE, 0)
        others = setup.flags & ~ns.CLONE_NEWUSER
        if others:
            ns.setns(pidfd, others)
    except ProcessLookupError:
        raise StateError("the container has just ended", "`rl ps -a` shows its state") from None


def _deciding(decide: Callable[[int, dict[str, Any]], None]) -> Callable[[Setup], None]:
    def step(setup: Setup) -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            decide(root, setup.process)
        finally:
            os.close(root)

    return step


def affinity(setup: Setup, when: str = "final") -> None:
    """execCPUAffinity; only for exec: the container's own process has its cpuset."""
    if setup.process.get("execCPUAffinity"):
        from rl.runtime import scheduling  # imported by process.prepare() already

        scheduling.set_affinity(setup.process, when)


def open_terminal(setup: Setup) -> None:
    """The pty, on the container's devpts."""
    if not setup.process.get("terminal"):
        return
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        setup.master, setup.slave = terminal.open_pair(root, setup.process)
    finally:
        os.close(root)


STEPS: spawning.Steps = (
    ("set the CPU affinity", affinity),
    ("start a session", spawning.new_session),
    ("open a terminal", open_terminal),
    *process.STEPS,
)
