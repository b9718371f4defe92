"""From the process that launched a container to the lean monitor that stays with it: same pid, same children.

Called by the engine's launch, inside the shared user namespace, once the container's command runs.

The loop starts right here, in the process as it is: a container that ends within the first second needs no
other interpreter (starting one would cost `rl run --rm IMAGE true` 15 ms). What lives longer is handed to a new,
minimal interpreter (`helpers/rl-monitor`), by exec: memory falls from 12 MB to about 3. State crosses in a memfd,
marshalled, because the same interpreter reads it; a later `rl` can take over the same way.
"""

from __future__ import annotations

import _signal
import _socket
import marshal
import os
import sys

from rl.errors import RlError, UsageError
from rl.kernel import process
from rl.monitor import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypedDict

    from rl.config.model import EventLog, LogConfig

    class Params(TypedDict, total=False):
        """What :func:`become_monitor` takes; descriptors are -1 where there is none."""

        id: str
        container_dir: str
        run_dir: str
        trash_dir: str
        lock_fd: int  # holds the flock that says "alive"
        pid: int  # the container's init, our child
        pidfd: int
        terminal: bool
        master_fd: int  # the pty, with `terminal`; otherwise:
        stdout_fd: int
        stderr_fd: int
        stdin_fd: int
        stdin_open: bool
        listen_fd: int  # see listen()
        client_fd: int  # the first client, which may slow the container down instead of losing output
        client: dict[str, bool]  # its streams: stdin, stdout, stderr
        log: LogConfig
        helpers: list[int]  # pids to end with the container (pasta, fuse-overlayfs)
        wait_for_helpers: bool  # the end waits for theirs: they hold published ports or mounts; default true
        keep_fds: list[int]  # to hold open as long as the container runs (namespaces)
        cgroup: str  # directory of the container's cgroup, "" when it has none
        oom_events: list[str]  # files with an oom_kill counter; default: memory.events of `cgroup`
        stop_signal: int  # for SIGTERM to the monitor itself; default 15
        stop_timeout: float  # seconds, default 10
        remove: bool  # --rm
        delete: list[str]  # with --rm, what to delete beside container_dir: files, links, directories
        state: dict[str, Any]  # state.json as it is; the end is written into it
        events: EventLog  # where the end is told; without it nowhere
        image: str  # for events, as are:
        labels: dict[str, str]
        # set here
        clients: list[tuple[int, bool, bool, bool, bool]]
        slave_fd: int
        log_carry: tuple[bytes, bytes]
        spare_fd: int
        package_root: str


#: Seconds before the process is replaced.
LINGER = 1.0
#: -I -S: no site packages, no environment; no_debug_ranges: no column tables in memory; utf8: no locale tables.
FLAGS = ("-I", "-S", "-X", "no_debug_ranges", "-X", "utf8")

_FDS = ("lock_fd", "pidfd", "master_fd", "stdout_fd", "stderr_fd", "stdin_fd", "listen_fd", "slave_fd", "spare_fd")


def listen(run_dir: str) -> int:
    """The container's attach socket, bound to ``<run_dir>/attach`` and listening; its descriptor."""
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        # Through /proc: sun_path holds 108 bytes only.
        address = f"/proc/self/fd/{directory}/attach"
        try:
            os.unlink(address)
        except FileNotFoundError:
            pass
        sock.bind(address)
        sock.listen(128)
        return sock.detach()
    except OSError as error:
        what = f"listen on {run_dir}/attach: {error.strerror}"
        raise RlError(what, "is its file system full or read-only?") from None
    finally:
        sock.close()
        os.close(directory)


def check_log(config: LogConfig) -> None:
    """Raises UsageError unless the monitor can write this log; for `create`, before anything runs."""
    driver = config.get("driver", "")
    if driver not in logs.DRIVERS:
        raise UsageError(f"unknown log driver {driver!r}", f"use one of: {', '.join(logs.DRIVERS)}")
    if config.get("max_size", 0) < 0 or config.get("max_file", 1) < 1:
        raise UsageError("log options: max-size may not be negative, max-file at least 1")


def helper_program() -> str:
    """The lean monitor's entry: beside the package in a checkout, else where it was installed."""
    root = _package_root()
    for directory in (f"{root}/helpers", f"{sys.prefix}/libexec/rl", f"{sys.base_prefix}/libexec/rl"):
        path = f"{directory}/rl-monitor"
        if os.access(path, os.R_OK):
            return path
    raise RlError(
        f"helpers/rl-monitor is neither in {root} nor in {sys.prefix}/libexec/rl",
        "install rl again: pip install --force-reinstall rl",
    )


def _package_root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def become_monitor(params: Params) -> NoReturn:
    """Be the container's monitor until it has ended and everything of it is cleaned up."""
    try:
        # Until the loop has its handlers, a signal waits.
        waiting = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGURG)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, waiting)
        _settle(params)
        from rl.monitor.ending import finish
        from rl.monitor.loop import Monitor

        monitor = Monitor(params)
        if not monitor.run(LINGER):
            try:
                _replace(monitor.export())
            except (OSError, RlError):
                monitor.unblock_signals()
                monitor.run()  # no memory, no helper: the container is worth more than 9 MB
        finish(monitor)
    except BaseException:
        if os.environ.get("RL_DEBUG"):
            with open(f"{params['container_dir']}/monitor.err", "w", encoding="utf-8") as file:
                import traceback

                traceback.print_exc(file=file)
        os._exit(1)
    os._exit(0)


def _settle(params: Params) -> None:
    """Defaults, and what a daemon owes: stdio on /dev/null, no working directory, no stray descriptors."""
    params.setdefault("slave_fd", -1)
    params.setdefault("spare_fd", -1)
    params.setdefault("keep_fds", [])
    params.setdefault("helpers", [])
    params.setdefault("stop_signal", 15)
    params.setdefault("stop_timeout", 10)
    params.setdefault("oom_events", [f"{params['cgroup']}/memory.events"] if params.get("cgroup") else [])
    params["package_root"] = _package_root()
    wants = params.get("client", {})
    params["clients"] = []
    if params.get("client_fd", -1) >= 0:
        streams = (bool(wants.get("stdin")), bool(wants.get("stdout")), bool(wants.get("stderr")))
        params["clients"].append((params["client_fd"], *streams, True))
    if params["terminal"]:
        from rl.monitor import peer

        params["slave_fd"] = peer.open_terminal(params["master_fd"])
    params["spare_fd"] = _reserve(params)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")
    kept = sorted({fd for fd in _kept(params) if fd > 2})
    first = 3
    for fd in kept:
        if fd > first:
            process.close_range(first, fd - 1)
        first = fd + 1
    process.close_range(first)
    try:
        os.setsid()
    except PermissionError:
        pass  # it leads a session already
    _write("/proc/self/oom_score_adj", b"-900")  # not without privilege; inherited from the caller then
    _write("/proc/self/comm", b"rl-monitor")


def _kept(params: Params) -> list[int]:
    found: list[int] = [params[key] for key in _FDS]  # type: ignore[literal-required]
    return [fd for fd in found if fd >= 0] + params["keep_fds"] + [client[0] for client in params["clients"]]


def _reserve(params: Params) -> int:
    """A file with its blocks allocated: the end can be recorded there when the disk is full by then."""
    if params.get("remove"):
        return -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(f"{params['container_dir']}/state.spare", flags, 0o600)
        os.posix_fallocate(fd, 0, 8192)
        return fd
    except OSError:
        return -1  # full already, or a file system without it


def _write(path: str, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, data)
    except OSError:
        pass
    finally:
        os.close(fd)


def _replace(params: Params) -> NoReturn:
    """exec the lean interpreter; returns only by raising."""
    helper = helper_program()
    state: dict[str, Any] = dict(params)
    memory = os.memfd_create("rl-monitor", 0)
    os.write(memory, marshal.dumps(state, 2))
    os.lseek(memory, 0, os.SEEK_SET)
    for fd in _kept(params):
        os.set_inheritable(fd, True)
    interpreter: str = getattr(sys, "_base_executable", "") or sys.executable or "/proc/self/exe"
    environment = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    os.execve(interpreter, [interpreter, *FLAGS, helper, params["id"], str(memory)], environment)
