"""An OCI runtime that is a program, crun or runc, in the place of rl.runtime.container (``--runtime``).

Called by the monitor with the same two steps, :func:`create` and :func:`start`, from the same surroundings: root
of the shared user namespace, a subreaper, so that the container's init becomes its child. The program's own cgroup
management is switched off where it can be: the container is put into the cgroup that rl made.

From :func:`start` on the monitor alone knows the container, by pidfd; the program's state directory is removed then,
so that nothing of it is left behind and no program has to be called when the container ends.

Source: opencontainers/runtime-tools, docs/command-line-interface.md; crun(1), runc(8).
"""

from __future__ import annotations

import _socket
import os

from rl.config.jsonio import loads, write_json
from rl.errors import CommandNotExecutableError, CommandNotFoundError, RlError, UnsupportedError
from rl.kernel import mount, namespaces, process
from rl.runtime.userns import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.sync import Io

_SOCKET_PATH_MAX = 107  # sun_path, unix(7)

_CGROUPS = "/sys/fs/cgroup"

#: What the programs say when the command cannot be run; they pass no errno on.
_NOT_FOUND = ("executable file", "no such file or directory")
_NOT_EXECUTABLE = (
    "permission denied", "operation not permitted", "exec format error", "is a directory", "not a regular file",
)  # fmt: skip
_ABOUT_MOUNTS = ("mounting", "mount `")
_ABOUT_COMMAND = ("exec", "executable", "find path", "open executable", "stat executable")


class Created:
    """A container that waits for :func:`start`, or runs; as rl.runtime.container.Created.

    ``pid`` is init's pid here and ``pidfd`` stands for it; ``master`` is the pty's master or -1. The caller owns
    both descriptors and reaps the process.
    """

    __slots__ = ("bundle", "container_id", "master", "pid", "pidfd", "program", "spec", "state")

    def __init__(self, program: str, state: str, container_id: str, bundle: str, spec: dict[str, Any]) -> None:
        self.program = program
        self.state = state
        self.container_id = container_id
        self.bundle = bundle
        self.spec = spec
        self.pid = 0
        self.pidfd = -1
        self.master = -1

    def abandon(self) -> None:
        """Kill and reap what exists of the process, remove the program's state, close everything."""
        delete(self)
        process.end(self)


def find(name: str) -> str:
    """The program of runtime *name*: a path, or a name on PATH. Raises UnsupportedError if there is none."""
    path = name if "/" in name else find_program(name)
    if not path or not os.access(path, os.X_OK):
        raise UnsupportedError(
            f"runtime {name}: no such program", f"install the package {os.path.basename(name)}, or leave out --runtime"
        )
    return path


def create(
    runtime: str, container_id: str, bundle: str, spec: dict[str, Any], io: Io, *, run_dir: str,
    cgroup_procs: str | list[str] = "", place: Callable[[int], str] | None = None,
) -> Created:
    """Make the container of *bundle* (whose config.json is *spec*) up to "waiting for start", by program *runtime*.

    *run_dir* is where the program's state lives until the start; *cgroup_procs* are the files of the cgroups to
    enter; where that takes more, *place* is called with the pid of the process that becomes the program, while it
    waits, and tells the file. The caller keeps its fds of *io*. Raises CommandNotFoundError (127),
    CommandNotExecutableError (126), UnsupportedError or RlError; then nothing is left.
    """
    program = find(runtime)
    state = f"{run_dir}/runtime/{container_id}"
    created = Created(program, state, container_id, bundle, spec)
    _remove_tree(state)  # of an rl that was killed in here
    os.makedirs(f"{state}/root", 0o700)
    procs = [path for path in ([cgroup_procs] if isinstance(cgroup_procs, str) else cgroup_procs) if path]
    _adapt_bundle(created, procs)
    if not _is_crun(program):
        procs = []  # it goes there by itself
    listener = None
    try:
        arguments = ["create", "--bundle", bundle, "--pid-file", f"{state}/pid"]
        if io.preserve:
            arguments += ["--preserve-fds", str(len(io.preserve))]
        if (spec.get("process") or {}).get("terminal"):
            listener, path = _console_socket(state)
            arguments += ["--console-socket", path]
        # The init of the container is orphaned when the program ends, and has to become our child.
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        _run(created, [*arguments, container_id], io, procs, _placing(created, place))
        with open(f"{state}/pid", encoding="utf-8") as file:
            created.pid = int(file.read())
        created.pidfd = os.pidfd_open(created.pid)
        if listener is not None:
            created.master = _receive(listener)
    except BaseException:
        created.abandon()
        raise
    finally:
        if listener is not None:
            listener.close()
    return created


def start(created: Created, keep_state: bool = False) -> None:
    """Let the command run. With *keep_state*, :func:`kill` and :func:`delete` can be used afterwards.

    Raises as :func:`create`; then the process is gone and reaped.
    """
    try:
        _run(created, ["start", created.container_id])
    except BaseException:
        created.abandon()
        raise
    if not keep_state:
        _remove_tree(created.state)


def kill(created: Created, signal: int) -> None:
    """Send *signal* to the container's init. Raises RlError."""
    _run(created, ["kill", created.container_id, str(signal)])


def delete(created: Created) -> None:
    """Kill the container if it lives, run its poststop hooks, and remove what the program keeps of it."""
    if not os.path.isdir(created.state):
        return
    try:
        _run(created, ["delete", "--force", created.container_id])
    except RlError:
        pass  # it knows nothing of it, or did what it could; the rest is a directory
    _remove_tree(created.state)


def _adapt_bundle(created: Created, procs: list[str]) -> None:
    """Take out of config.json what rl does itself, limits and the place in the cgroup tree, and lower its version.

    runc cannot leave cgroups alone: it is told the one that rl made.
    """
    linux = created.spec.get("linux") or {}
    wanted = {key: value for key, value in linux.items() if key not in ("cgroupsPath", "resources")}
    if procs and not _is_crun(created.program):
        wanted["cgroupsPath"] = os.path.dirname(procs[0]).removeprefix(_CGROUPS)
    # Older ones refuse a version above theirs; what came after 1.0 is optional in config.json.
    adapted = {**created.spec, "ociVersion": "1.0.2", "linux": wanted}
    if adapted != created.spec:
        write_json(f"{created.bundle}/config.json", adapted, sync=False)


def _global_options(created: Created) -> list[str]:
    options = ["--root", f"{created.state}/root", "--log", f"{created.state}/log", "--log-format", "json"]
    if _is_crun(created.program):
        options += ["--cgroup-manager", "disabled"]
    return options


def _is_crun(program: str) -> bool:
    return os.path.basename(program).startswith("crun")


def _hide_cgroups(program: str) -> None:
    """Where this host does not have cgroup v2 alone: keep the program away from the hierarchies that are not ours.

    crun refuses v1 and v2 side by side when v2 has a controller, even with its cgroup manager disabled; it looks for v2
    at one path. runc would make cgroups in every hierarchy it may write to, which only it could remove again.
    """
    if os.path.exists(f"{_CGROUPS}/cgroup.controllers") or not os.path.isdir(_CGROUPS):
        return
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
    if not _is_crun(program):
        mount.mount(_CGROUPS, _CGROUPS, None, mount.MS_BIND | mount.MS_REC)
        mount.mount_setattr(-100, _CGROUPS, mount.MOUNT_ATTR_RDONLY, recursive=True)
    elif os.path.isdir(f"{_CGROUPS}/unified"):
        mount.mount("tmpfs", f"{_CGROUPS}/unified", "tmpfs", mount.MS_RDONLY, "size=4k")


def _placing(created: Created, place: Callable[[int], str] | None) -> Callable[[int], None] | None:
    """*place*, after which the bundle names the cgroup for those who want to know it."""
    if place is None:
        return None
    return lambda pid: _adapt_bundle(created, [place(pid)])


def _run(
    created: Created, arguments: list[str], io: Io | None = None, cgroup_procs: list[str] | None = None,
    place: Callable[[int], None] | None = None,
) -> None:
    """Run the program to its end; *io* becomes its 0, 1, 2 and what the container gets. Raises the error it logged.

    *place* is called with the pid before it begins.
    """
    argv = [created.program, *_global_options(created), *arguments]
    try:
        os.truncate(f"{created.state}/log", 0)
    except OSError:
        pass
    failed_r, failed_w = os.pipe2(os.O_CLOEXEC)
    gate_r, gate_w = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(gate_w)
        if place and not os.read(gate_r, 1):
            os._exit(125)  # it could not be placed
        _child(argv, io, cgroup_procs or [], failed_w)
    os.close(failed_w)
    os.close(gate_r)
    try:
        if place:
            place(pid)
            os.write(gate_w, b"g")
    except BaseException:
        os.close(failed_r)
        os.close(gate_w)
        os.waitpid(pid, 0)
        raise
    os.close(gate_w)
    with open(failed_r, "rb") as pipe:
        failed = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if failed:
        raise RlError(f"run {created.program} {arguments[0]}: {failed}")
    if status:
        raise _error(created, arguments[0], status)


def _child(argv: list[str], io: Io | None, cgroup_procs: list[str], failed: int) -> None:
    """In the child: enter the cgroup, arrange the descriptors, become the program. Never returns."""
    import fcntl

    what = ""
    try:
        what = _CGROUPS
        _hide_cgroups(argv[0])
        for what in cgroup_procs:
            fd = os.open(what, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
        what = argv[0]
        preserve = io.preserve if io else []
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        wanted = [io.stdin, io.stdout, io.stderr] if io else [null, null, null]
        # Copied out of the way first: a wanted descriptor may sit on another one's place.
        free = 3 + len(preserve)
        failed = fcntl.fcntl(failed, fcntl.F_DUPFD_CLOEXEC, free)
        copies = [fcntl.fcntl(fd if fd >= 0 else null, fcntl.F_DUPFD_CLOEXEC, free) for fd in wanted + preserve]
        for number, fd in enumerate(copies):
            os.dup2(fd, number, inheritable=True)
        process.close_range(free, flags=4)  # all others close at exec
        os.execv(argv[0], argv)
    except OSError as error:
        os.write(failed, f"{what}: {error.strerror}".encode())
    finally:
        os._exit(125)


def _error(created: Created, step: str, status: int) -> RlError:
    """The error the program logged, with the class that gives the right exit code."""
    message = _logged(f"{created.state}/log") or f"exit status {status}"
    text = message.lower()
    name = os.path.basename(created.program)
    what = f"{name} {step}: {message}"
    if any(word in text for word in _ABOUT_COMMAND) and not any(word in text for word in _ABOUT_MOUNTS):
        command = " ".join(((created.spec.get("process") or {}).get("args") or [""])[:1])
        if any(word in text for word in _NOT_EXECUTABLE):
            return CommandNotExecutableError(what, f"{command} must be a program for this machine, with mode +x")
        if any(word in text for word in _NOT_FOUND):
            return CommandNotFoundError(what, f"{command} is not in the image; see its PATH and --entrypoint")
    if "cgroup" in text:
        return UnsupportedError(what, "leave out --runtime, or use crun: both can do without cgroups")
    return RlError(what, "rl's own runtime may do: leave out --runtime")


def _logged(path: str) -> str:
    """The last error in the program's log, one JSON object per line."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    messages = []
    for line in lines:
        try:
            entry = loads(line)
        except ValueError:
            messages.append(line)
            continue
        if entry.get("level") in ("error", "fatal", None):
            messages.append(entry.get("msg", ""))
    return str(messages[-1]) if messages else ""


def _console_socket(state: str) -> tuple[_socket.socket, str]:
    """A listening socket for the pty's master, and its path for the program."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    directory = os.open(state, os.O_PATH | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/console")
        listener.listen(1)
        path = f"{state}/console"
        if len(path.encode()) > _SOCKET_PATH_MAX:
            raise UnsupportedError(
                f"pass a terminal through {path}: the path is too long for a socket", "set a shorter XDG_RUNTIME_DIR"
            )
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener, path


def _receive(listener: _socket.socket) -> int:
    """The descriptor sent to the listening socket; the program has ended, so it is there or never comes."""
    import struct

    listener.settimeout(2)
    try:
        number, _ = listener._accept()  # type: ignore[attr-defined]  # of _socket.socket; typeshed knows socket.socket
    except OSError:
        raise RlError("receive the terminal of the container: the runtime sent none") from None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, number)
    try:
        _, ancillary, _, _ = connection.recvmsg(4096, 64, _socket.MSG_CMSG_CLOEXEC)
    finally:
        connection.close()
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            return int(struct.unpack("=i", data[:4])[0])
    raise RlError("receive the terminal of the container: the runtime sent none")


def _remove_tree(path: str) -> None:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            try:
                os.unlink(entry.path)
            except OSError:
                continue
    try:
        os.rmdir(path)
    except OSError:
        pass
