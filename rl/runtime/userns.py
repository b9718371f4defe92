"""The user namespace all containers of a user share, and running code inside it.

There is no pause process: the namespace lives as long as any monitor lives. Who needs it joins it
through a living monitor (one that holds its lock file) or makes a new one, with the same id map:
inside 0 is the caller, inside 1… are the subordinate ids of /etc/subuid and /etc/subgid.

Called by the engine when it launches a container, and by whatever must touch files owned by
subordinate ids (unpacking, deletion) through :func:`call`.

Source: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import errno
import fcntl
import os

from rl.config.jsonio import dumps, loads
from rl.errors import RlError, UnsupportedError, from_wire, to_wire
from rl.kernel import namespaces as ns
from rl.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import IdRange

_inside = False  # this process is already in the shared namespace


class IdMaps:
    """The id maps to create the namespace with; ``mode`` is full, root or single, ``why`` explains single."""

    __slots__ = ("gid", "mode", "uid", "why")

    def __init__(self, mode: str, uid: list[IdRange], gid: list[IdRange], why: str = "") -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.why = why


def find_program(name: str) -> str:
    """Absolute path of *name* on PATH or in the system directories, "" if there is none."""
    path = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory and os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    return ""


def subordinate_ranges(path: str, uid: int, user: str) -> list[tuple[int, int]]:
    """The (first id, count) lines of *path* (/etc/subuid) for *user*, given by name or by number."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            ranges.append((int(fields[1]), int(fields[2])))
    return ranges


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _chain(first: int, own: int, ranges: list[tuple[int, int]]) -> list[IdRange]:
    maps: list[IdRange] = [(first, own, 1)]
    inside = first + 1
    for start, count in ranges:
        maps.append((inside, start, count))
        inside += count
    return maps


def _identity(kind: str) -> list[IdRange]:
    """All ids onto themselves, id 0 on a line of its own: other runtimes take the one-line map for no namespace."""
    ranges = [(inside, inside, count) for inside, _, count in process.id_map(kind)]
    first, _, count = ranges[0]
    if first == 0 and count > 1:
        ranges[:1] = [(0, 0, 1), (1, 1, count - 1)]
    return ranges


def wanted_maps() -> IdMaps:
    """The best id map this host grants to the caller (the ladder of docs/architecture.md)."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and process.capget()[0] >> 7 & 1:  # CAP_SETUID: map all we have onto itself
        return IdMaps("root", _identity("uid"), _identity("gid"))
    single = ([(0, uid, 1)], [(0, gid, 1)])
    if not find_program("newuidmap") or not find_program("newgidmap"):
        return IdMaps("single", *single, "newuidmap and newgidmap are not installed (package uidmap or shadow-utils)")
    user = _user_name(uid)
    uids = subordinate_ranges("/etc/subuid", uid, user)
    gids = subordinate_ranges("/etc/subgid", uid, user)
    for name, ranges in (("/etc/subuid", uids), ("/etc/subgid", gids)):
        if not ranges:
            return IdMaps(
                "single", *single,
                f"{name} has no range for {user}: "
                f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )
        own = uid if name == "/etc/subuid" else gid
        if any(start <= own < start + count for start, count in ranges):
            return IdMaps("single", *single, f"{name}: the range of {user} contains the user's own id {own}")
    return IdMaps("full", _chain(0, uid, uids), _chain(0, gid, gids))


def living_monitors(run: str) -> list[tuple[str, int]]:
    """(container id, monitor pid) of every monitor that holds its lock and is inside the namespace."""
    found = []
    try:
        names = os.listdir(f"{run}/containers")
    except OSError:
        return []
    for name in names:
        pid = monitor_pid(f"{run}/containers/{name}/lock")
        if pid > 0:
            found.append((name, pid))
    return found


def monitor_pid(lock_path: str) -> int:
    """The pid in a lock file somebody holds; 0 when nobody does: alive means *holding the lock*."""
    try:
        fd = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.read(fd, 32).strip()
            return int(content) if content.isdigit() else -1  # -1: alive, not yet in the namespace
        return 0
    finally:
        os.close(fd)


def find_living(run: str) -> int | None:
    """A file descriptor of the shared namespace, or None when no monitor lives."""
    try:
        names = os.listdir(f"{run}/containers")
    except OSError:
        return None
    for name in names:
        pid = monitor_pid(f"{run}/containers/{name}/lock")
        if pid <= 0:
            continue
        try:
            fd = ns.open_namespace(pid, "user")
        except OSError:
            continue
        # The pid may have been reused since: only a namespace that we own will do.
        try:
            ours = ns.owner_uid(fd) == os.getuid() and not os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user"))
        except OSError:
            ours = False
        if ours:
            return fd
        os.close(fd)
    return None


def is_inside() -> bool:
    """Whether this process is in the shared namespace."""
    return _inside


def stay_inside() -> None:
    """This process is in the shared namespace already: it is a monitor's, whatever it has executed."""
    global _inside
    _inside = True


def is_entered() -> bool:
    """Whether the command line itself was started in there: by `rl unshare`, which says so in the environment."""
    return (
        os.environ.get("_CONTAINERS_USERNS_CONFIGURED") == "done"
        and os.environ.get("_CONTAINERS_ROOTLESS_UID", "0") != "0"
        and os.getuid() == 0
        and not ns.is_initial_user_namespace()
    )


def enter(run: str, lock_fd: int | None = None, meanwhile: Callable[[], object] | None = None) -> str:
    """Move this single-threaded process into the shared user namespace and a mount namespace of its own.

    *lock_fd* is the caller's held lock file if it will stay as a monitor: its pid is written there,
    under the creation lock, so that two first containers never make two namespaces. *meanwhile* is called
    once, while newuidmap and newgidmap run if they must.
    Returns the id mode: full, root or single. Raises UnsupportedError where the host forbids it.
    """
    global _inside
    mode = "full"
    creation = os.open(f"{run}/userns.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fd = find_living(run)
        if fd is None and lock_fd is not None:
            fcntl.flock(creation, fcntl.LOCK_EX)
            fd = find_living(run)
        host_pid = os.getpid()
        if fd is not None:
            ns.setns(fd, ns.CLONE_NEWUSER)
            os.close(fd)
            mode = current_mode()
        else:
            mode = _create(wanted_maps(), meanwhile)
            meanwhile = None
        _inside = True
        if lock_fd is not None:
            os.pwrite(lock_fd, str(host_pid).encode(), 0)
    finally:
        os.close(creation)
    if meanwhile is not None:
        meanwhile()
    from rl.kernel import mount as m  # here: many import this module for monitor_pid() alone

    ns.unshare(ns.CLONE_NEWNS)
    m.mount(None, "/", None, m.MS_REC | m.MS_SLAVE)
    return mode


def current_mode() -> str:
    """full, root or single, read off this process's id map."""
    ranges = process.id_map("uid")
    if len(ranges) == 1 and ranges[0][2] == 1:
        return "single"
    return "root" if ranges[0][1] == 0 else "full"


def _create(maps: IdMaps, meanwhile: Callable[[], object] | None = None) -> str:
    """unshare(CLONE_NEWUSER) and have it mapped; returns the mode that worked."""
    pid = os.getpid()
    uid, gid = os.getuid(), os.getgid()
    writers: list[tuple[int, int]] = []
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
    if maps.mode != "single":
        # The writers are forked before unshare: they must stay in the parent namespace.
        for kind, ranges in (("uid", maps.uid), ("gid", maps.gid)):
            writers.append((_fork_writer(kind, ranges, maps.mode, pid, ready_r, ready_w), 0))
    os.close(ready_r)
    try:
        ns.unshare(ns.CLONE_NEWUSER)
    except OSError as error:
        os.close(ready_w)
        for child, _ in writers:
            os.waitpid(child, 0)
        raise _cannot_create(error) from None
    if writers:
        os.write(ready_w, b"gg")
    os.close(ready_w)
    if meanwhile is not None:
        meanwhile()
    failed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in writers]
    if writers and not any(failed):
        return maps.mode
    try:
        ns.write_proc("/proc/self/setgroups", "deny")
        ns.write_proc("/proc/self/uid_map", f"0 {uid} 1")
        ns.write_proc("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as error:
        raise UnsupportedError(
            f"map ids in a new user namespace: {error.strerror} ({error.filename})",
            "newuidmap and newgidmap must be setuid root or have file capabilities: "
            "reinstall package uidmap or shadow-utils",
        ) from None
    return "single"


def _fork_writer(kind: str, ranges: list[IdRange], mode: str, pid: int, ready_r: int, ready_w: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.close(ready_w)
        if os.read(ready_r, 1) != b"g":
            os._exit(1)
        if mode == "root":
            ns.write_proc(f"/proc/{pid}/{kind}_map", "".join(f"{a} {b} {n}\n" for a, b, n in ranges))
            code = 0
        else:
            program = find_program(f"new{kind}map")
            argv = [program, str(pid)]
            for triple in ranges:
                argv += [str(number) for number in triple]
            os.execv(program, argv)
    except BaseException:
        pass
    finally:
        os._exit(code)


def map_process(pid: int, kind: str, ranges: list[IdRange]) -> None:
    """Write the id map of *kind* (uid, gid) of process *pid*'s new user namespace, which is a child of ours.

    Directly where we have the capability; else, for a single id, in the way the kernel grants to anybody (setgroups
    denied first, user_namespaces(7)); else by newuidmap and newgidmap. Raises RlError.
    """
    text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)
    own = os.getuid() if kind == "uid" else os.getgid()
    capability = 7 if kind == "uid" else 6  # CAP_SETUID, CAP_SETGID
    try:
        if process.capget()[0] >> capability & 1:
            ns.write_proc(f"/proc/{pid}/{kind}_map", text)
            return
        if len(ranges) == 1 and ranges[0][1:] == (own, 1):
            if kind == "gid":
                ns.write_proc(f"/proc/{pid}/setgroups", "deny")
            ns.write_proc(f"/proc/{pid}/{kind}_map", text)
            return
    except OSError as error:
        raise RlError(
            f"map {kind}s of the container's user namespace: {error.strerror}",
            "the map reaches beyond the ids of the namespace around it: see /etc/subuid and /etc/subgid",
        ) from None
    _map_by_program(pid, kind, ranges)


def _map_by_program(pid: int, kind: str, ranges: list[IdRange]) -> None:
    program = find_program(f"new{kind}map")
    if not program:
        raise UnsupportedError(
            f"map {kind}s of the container's user namespace: new{kind}map is not installed",
            "install package uidmap or shadow-utils, or map your own id alone",
        )
    argv = [program, str(pid)]
    for triple in ranges:
        argv += [str(number) for number in triple]
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, write_end, 2)]
        child = os.posix_spawn(program, argv, os.environ, file_actions=actions)
    finally:
        os.close(write_end)
    with open(read_end, "rb") as pipe:
        said = pipe.read().decode(errors="replace").strip()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RlError(
            f"map {kind}s of the container's user namespace: {said.splitlines()[0] if said else program + ' failed'}",
            f"the ids must be in your ranges of /etc/sub{kind}",
        )


def _cannot_create(error: OSError) -> RlError:
    """The reason why unshare(CLONE_NEWUSER) failed and the setting that allows it."""
    what = f"create a user namespace: {error.strerror}"
    for path, bad, hint in (
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
         "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
         "or give rl's interpreter an AppArmor profile with `userns,`"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=28633"),
    ):
        try:
            with open(path, encoding="utf-8") as file:
                if file.read().strip() == bad:
                    return UnsupportedError(what, hint)
        except OSError:
            continue
    if error.errno == errno.ENOSPC:
        return UnsupportedError(
            what, "the limit of user namespaces is reached: sudo sysctl user.max_user_namespaces=28633"
        )
    return UnsupportedError(what, "inside another container, run that one with --security-opt seccomp=unconfined")


def call(run: str, function: Callable[..., Any], *arguments: Any, entered: bool = False) -> Any:
    """The result of ``function(*arguments)``, run inside the shared namespace with its full id map.

    A child process enters it (the caller stays outside; *entered*: is in there), so changes to memory are lost; result
    and errors cross as JSON: RlError arrives as what it was, anything else as RlError.
    """
    if _inside:
        return function(*arguments)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read_end)
            try:
                stay_inside() if entered else enter(run)
                answer = {"result": function(*arguments)}
                code = 0
            except BaseException as error:
                answer = {"error": to_wire(error)}
            with open(write_end, "wb") as pipe:
                pipe.write(dumps(answer).encode())
        finally:
            os._exit(code)
    os.close(write_end)
    try:
        with open(read_end, "rb") as pipe:
            data = pipe.read()
    except BaseException:
        os.kill(child, 15)
        os.waitpid(child, 0)
        raise
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not data:
        raise RlError(f"{getattr(function, '__name__', 'task')} in the user namespace ended with status {status}")
    answer = loads(data.decode())
    if "error" in answer:
        raise from_wire(answer["error"])
    return answer["result"]
