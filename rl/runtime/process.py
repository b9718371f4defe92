"""From a prepared process to the user's command: OCI ``process``, for create and exec alike.

The steps are listed in :data:`STEPS`, in the order security demands (design: LSM, seccomp without
no_new_privs, bounding set, user, capabilities, no_new_privs, start, seccomp, command). Called by
:mod:`rl.runtime.child` and :mod:`rl.runtime.exec`; runs inside the container's namespaces and root.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import fcntl
import os
import stat

from rl.errors import CommandNotFoundError, RlError
from rl.kernel import process as kp
from rl.runtime import capabilities, hooks, launch, launcher, rlimits, rootpath, terminal, users
from rl.runtime.seccomp import NEW_LISTENER, install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.sync import Setup


#: An annotation of crun's: the process keeps the further groups of who makes it; they show as the overflow group.
KEEP_GROUPS = "run.oci.keep_original_groups"


def prepare(setup: Setup, profile: dict[str, Any] | None, state: dict[str, Any], warnings: list[str]) -> None:
    """The part that is done outside, by the caller of create and exec, before anything is made.

    Security labels, the seccomp agent of *profile* (the container's *state* is for it), unknown capabilities; and the
    modules that the steps will need: once the root has changed, an import would search the container's files. Opens
    ``setup.proc`` and ``setup.agent``, which the caller closes. Raises RlError; *warnings* get what is left out.
    """
    process = setup.process
    warnings += capabilities.unknown(process.get("capabilities") or {})
    if scheduling_asked_for(setup) or process.get("execCPUAffinity"):
        from rl.runtime import scheduling  # noqa: F401
    if process.get("apparmorProfile") or process.get("selinuxLabel"):
        from rl.runtime import lsm

        setup.labels = lsm.wanted(process, warnings)
    notifies = bool(profile) and bool(setup.seccomp_flags & NEW_LISTENER)
    if setup.labels or notifies:
        from rl.runtime import lsm

        setup.proc = lsm.open_proc()
    if profile and notifies:
        from rl.runtime.seccomp import listener

        setup.agent = listener.connect(profile["listenerPath"])
        setup.agent_state, setup.agent_metadata = state, profile.get("listenerMetadata") or ""


def outside_proc(setup: Setup) -> None:
    """What takes the caller's /proc, before its descriptor is closed: security labels, our number out there."""
    if setup.labels is not None:
        from rl.runtime import lsm

        lsm.apply(setup.labels, setup.proc)
    if setup.agent >= 0:
        from rl.runtime.seccomp import listener

        pid = int(os.readlink("self", dir_fd=setup.proc))
        setup.agent_message = listener.message(setup.agent_state, setup.agent_metadata, pid)


def standard_io(setup: Setup) -> None:
    """fds 0-2, the preserved ones from 3 on; of ours only the sockets and the terminal's master stay open."""
    io, sync = setup.io, setup.sync
    first_free = 3 + len(io.preserve)
    # Moved out of the way first: a wanted fd may sit on another one's place.
    above = first_free + 4
    sync.move(fcntl.fcntl(sync.sock.fileno(), fcntl.F_DUPFD_CLOEXEC, above))
    for name in ("master", "listener", "agent"):
        if getattr(setup, name) >= 0:
            setattr(setup, name, fcntl.fcntl(getattr(setup, name), fcntl.F_DUPFD_CLOEXEC, above))
    keep = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) if fd >= 0 else -1 for fd in io.preserve]
    if setup.slave >= 0:
        terminal.take(setup.slave)
    else:
        streams = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (io.stdin, io.stdout, io.stderr)]
        for number, fd in enumerate(streams):
            os.dup2(fd, number, inheritable=True)
        _own_pipes(setup)
    for number, fd in enumerate(keep):
        if fd >= 0:
            os.dup2(fd, 3 + number, inheritable=True)
        else:
            _close_quietly(3 + number)
    sync.move(os.dup2(sync.sock.fileno(), first_free, inheritable=False))
    for name in ("master", "listener", "agent"):
        if getattr(setup, name) >= 0:
            first_free += 1
            setattr(setup, name, os.dup2(getattr(setup, name), first_free, inheritable=False))
    _close_from(first_free + 1)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # nothing was there


def _close_from(first: int) -> None:
    """Close everything from *first* on, in one call however high the limit."""
    try:
        kp.close_range(first)
    except OSError:  # before Linux 5.9
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.close(int(name))
                except OSError:
                    continue  # the one that listed them


def _own_pipes(setup: Setup) -> None:
    """Give anonymous pipes to the container's user, so that it can open /dev/stderr anew."""
    uid = (setup.process.get("user") or {}).get("uid", 0)
    if not uid:
        return
    probe = os.pipe2(os.O_CLOEXEC)
    device = os.fstat(probe[0]).st_dev
    for fd in probe:
        os.close(fd)
    for fd in range(3):
        info = os.fstat(fd)
        if stat.S_ISFIFO(info.st_mode) and info.st_dev == device and info.st_uid != uid:
            try:
                os.fchown(fd, uid, -1)
            except OSError:
                pass  # the pipe of another user, given by who called us


def resources(setup: Setup) -> None:
    """Scheduling, I/O priority, personality, resource limits."""
    if scheduling_asked_for(setup):
        from rl.runtime import scheduling  # imported by prepare() already

        scheduling.apply(setup.process, setup.linux)
    if setup.process.get("rlimits"):
        rlimits.apply(setup.process["rlimits"])


def scheduling_asked_for(setup: Setup) -> bool:
    """Whether :mod:`rl.runtime.scheduling` has something to do in this process."""
    process = setup.process
    return bool(process.get("scheduler") or process.get("ioPriority") or setup.linux.get("personality"))


def working_directory(setup: Setup) -> None:
    """Make ``cwd`` where it is missing and enter it; before the user changes, again after it if root may not."""
    path = setup.process.get("cwd") or "/"
    if not path.startswith("/"):
        raise RlError(f"working directory {path!r} is not absolute")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if setup.make_cwd:
            os.close(rootpath.ensure_directory(root, path))
    except PermissionError:
        pass  # closed to root: the user decides below
    except NotADirectoryError:
        raise RlError(f"working directory {path}: a file is in its place", "choose another with --workdir") from None
    except OSError as error:
        hint = "create it in the image: the root file system is read-only" if error.errno == errno.EROFS else ""
        raise RlError(f"working directory {path}: {error.strerror}", hint) from None
    finally:
        os.close(root)
    try:
        os.chdir(path)
    except PermissionError:
        setup.retry_cwd = True
        return
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandNotFoundError(
            f"enter working directory {path}: {error.strerror}", "choose another with --workdir"
        ) from None
    except OSError as error:
        raise RlError(f"enter working directory {path}: {error.strerror}") from None
    _check_cwd(path)


def _check_cwd(path: str) -> None:
    """The kernel marks a directory outside the root as unreachable (CVE-2024-21626)."""
    try:
        reachable = os.getcwd().startswith("/")
    except FileNotFoundError:
        reachable = False
    if not reachable:
        raise RlError(f"working directory {path} is outside of the container's root: refused")


def early_seccomp(setup: Setup) -> None:
    """Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to be dropped."""
    if setup.seccomp and not setup.process.get("noNewPrivileges"):
        _load(setup, setup.seccomp)
        setup.seccomp = None


def _load(setup: Setup, program: bytes) -> None:
    """Load the filter; with an agent, send it the listener at once: it may have to answer our very next call."""
    if setup.agent < 0:
        install(program, setup.seccomp_flags)
        return
    from rl.runtime.seccomp import listener

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, setup.agent)  # asks the kernel: not under the filter
    listener.hand_over(sock, setup.agent_message, install(program, setup.seccomp_flags))
    setup.agent = -1


def identity(setup: Setup) -> None:
    """Bounding set, groups, user, capabilities, umask."""
    process = setup.process
    user = process.get("user") or {}
    uid, gid = user.get("uid", 0), user.get("gid", 0)
    sets = capabilities.Sets(process.get("capabilities"))
    capabilities.limit_bounding(sets)
    kp.prctl(kp.PR_SET_KEEPCAPS, 1)
    _set_groups(list(user.get("additionalGids") or []), setup)
    for what, call, number in (("group", os.setresgid, gid), ("user", os.setresuid, uid)):
        try:
            call(number, number, number)
        except OSError as error:
            raise _cannot_become(what, number, error) from None
    kp.prctl(kp.PR_SET_KEEPCAPS, 0)
    capabilities.apply(sets)
    os.umask(user.get("umask", 0o022))
    # A new user makes the kernel forget it (and exec resets it): nobody in the container may look into us.
    kp.prctl(kp.PR_SET_DUMPABLE, 0)
    if setup.retry_cwd:
        path = process.get("cwd") or "/"
        try:
            os.chdir(path)
        except OSError as error:
            raise RlError(f"enter working directory {path} as user {uid}: {error.strerror}") from None
        _check_cwd(path)


def _set_groups(groups: list[int], setup: Setup) -> None:
    if (setup.spec.get("annotations") or {}).get(KEEP_GROUPS) == "1":
        return  # --group-add keep-groups
    if setup.setgroups_denied:
        return  # a single-id map: the kernel allows no groups (user_namespaces(7), "setgroups")
    try:
        os.setgroups(groups)
    except OSError as error:
        raise _cannot_become("groups", ", ".join(map(str, groups)), error) from None


def _cannot_become(what: str, number: object, error: OSError) -> RlError:
    hint = ""
    if error.errno == errno.EINVAL:
        hint = "the id is not mapped: the user's ranges in /etc/subuid and /etc/subgid (or --userns) do not reach it"
    elif error.errno == errno.EAGAIN:
        hint = "the user has reached RLIMIT_NPROC: raise --ulimit nproc"
    return RlError(f"become {what} {number}: {error.strerror}", hint)


def no_new_privs(setup: Setup) -> None:
    """``noNewPrivileges``: setuid programs and file capabilities grant nothing from here on."""
    if setup.process.get("noNewPrivileges"):
        kp.prctl(kp.PR_SET_NO_NEW_PRIVS, 1)


def parent_death(setup: Setup) -> None:
    """End with the parent. Only here: every change of user makes the kernel forget it (prctl(2))."""
    if setup.die_with_parent:
        kp.prctl(kp.PR_SET_PDEATHSIG, 9)
    # A parent that died before this call is noticed in the next step: its end of the socket is closed.


def environment(setup: Setup) -> None:
    """The command's environment; HOME from the container's passwd unless it is given."""
    variables: dict[str, str] = {}
    for item in setup.process.get("env") or []:
        name, equals, value = item.partition("=")
        if equals and name:
            variables[name] = value
    if not variables.get("HOME"):
        uid = (setup.process.get("user") or {}).get("uid", 0)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            variables["HOME"] = users.home_of(root, uid)
        finally:
            os.close(root)
    setup.environment = variables


def wait_for_start(setup: Setup) -> None:
    """Report that everything is ready, with the terminal's master; go on when told to."""
    setup.sync.ready(setup.master, setup.listener)
    if setup.launcher is not None:
        setup.sync.sit_at(setup.launcher.descriptor)
    if setup.master >= 0:
        os.close(setup.master)
        setup.master = -1


def late_seccomp(setup: Setup) -> None:
    """With no_new_privs the filter comes last, so that it need not allow any of our own steps."""
    if setup.seccomp:
        _load(setup, setup.seccomp)


def start_hooks(setup: Setup) -> None:
    """startContainer hooks run inside the container, before its command."""
    if setup.hook_state is not None:
        document = {**setup.hook_state, "pid": os.getpid()}
        spawn = launch.spawn_protected if setup.exposed else launch.spawn
        hooks.run(setup.spec, "startContainer", document, spawn)


def signals(setup: Setup) -> None:
    """Default actions and nothing blocked: Python ignores SIGPIPE and SIGXFSZ, the caller perhaps more."""
    for number in range(1, 65):
        if number not in (9, 19, 32, 33) and _signal.getsignal(number) != _signal.SIG_DFL:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def protect_ourselves(setup: Setup) -> None:
    """Get the launcher ready that keeps our interpreter out of the container's reach, where that is needed."""
    if setup.exposed:
        setup.launcher = launcher.prepare(setup.sync.sock.fileno())


def find_command(setup: Setup) -> None:
    """Look the command up while system calls are free; later with startContainer hooks, which may bring it."""
    if setup.hook_state is None or not hooks.wanted(setup.spec, "startContainer"):
        setup.candidates = launch.find(_arguments(setup), setup.environment)


def execute(setup: Setup) -> None:
    """Replace this process by the command; returns only by raising."""
    arguments = _arguments(setup)
    if not setup.candidates:
        setup.candidates = launch.find(arguments, setup.environment)
    launch.execute(setup.candidates, arguments, setup.environment, setup.launcher)


def _arguments(setup: Setup) -> list[str]:
    arguments: list[str] = setup.process.get("args") or []
    if not arguments or not arguments[0]:
        raise CommandNotFoundError("no command to run", "give one: rl run IMAGE COMMAND")
    return arguments


STEPS: tuple[tuple[str, Callable[[Setup], None]], ...] = (
    ("set security labels", outside_proc),
    ("connect standard input and output", standard_io),
    ("protect the interpreter", protect_ourselves),
    ("enter the working directory", working_directory),
    ("prepare the environment", environment),
    ("set resource limits", resources),
    ("load the seccomp filter", early_seccomp),
    ("change user and capabilities", identity),
    ("set no_new_privs", no_new_privs),
    ("follow the parent's death", parent_death),
    ("find the command", find_command),
    ("wait for start", wait_for_start),
    ("reset signals", signals),
    ("load the seccomp filter", late_seccomp),
    ("run startContainer hooks", start_hooks),
    ("start the command", execute),
)

