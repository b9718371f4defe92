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
import time

from rl.errors import RlError, UsageError
from rl.kernel import process
from rl.monitor import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypedDict

    from rl.config.model import EventLog, LogConfig, RestartPolicy
    from rl.monitor.clients import Client
    from rl.monitor.health import Health
    from rl.monitor.loop import Monitor

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
        notify: dict[str, Any]  # see rl.monitor.notify: mode, address, fd (-1: none)
        health: Health  # {}: no health check
        restart: RestartPolicy
        restarts: int  # how often its policy has started it again since its user did
        deadline: float  # --timeout: when it is killed, time.monotonic(); 0: never
        timed_out: bool
        started: float  # when its command began to run, time.monotonic()
        launch: dict[str, Any]  # what `rl.engine.relaunch` needs to do it all again
        # set here and by rl.monitor.restart
        version: int  # see rl.monitor.loop.VERSION
        status: int  # exit code of the container's init, where that was the reason to become another interpreter
        packets: list[tuple[int, bytes]]  # from which client, what: received and not yet dealt with
        answer: int  # the client that asked for a new interpreter
        clients: list[dict[str, Any]]  # rl.monitor.clients.Client.export
        input: list[bytes]  # what the container has not taken yet
        input_ended: bool  # a client has closed it: so it stays when the container is started again
        after: str  # what to do when the container has ended: restart, stop; "": as the policy says
        stopped_by_user: bool
        user_signals: list[int]  # those sent by `rl kill` that need not end it
        backoff: float  # seconds waited before the last restart
        restart_at: float  # time.monotonic() of the next one, while that is waited for
        helper: str  # helpers/rl-monitor, and the interpreter for it
        interpreter: str
        relaunch: bool  # for helpers/rl-monitor: start the container again
        oom_score_adj: str  # the caller's, which the container's process has
        stdio_fds: list[int]  # with log driver passthrough: the caller's, for the next start
        slave_fd: int
        log_carry: tuple[bytes, bytes]
        log_lost: int
        kill_at: float  # time.monotonic() when a stop that goes on turns to SIGKILL
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
    root = package_root()
    for directory in (f"{root}/helpers", f"{sys.prefix}/libexec/rl", f"{sys.base_prefix}/libexec/rl"):
        path = f"{directory}/rl-monitor"
        if os.access(path, os.R_OK):
            return path
    raise RlError(
        f"helpers/rl-monitor is neither in {root} nor in {sys.prefix}/libexec/rl",
        "install rl again: pip install --force-reinstall rl",
    )


def interpreter() -> str:
    """The one for the lean monitor: a virtual environment would cost it memory."""
    return getattr(sys, "_base_executable", "") or sys.executable


def package_root() -> str:
    """The directory that our package is in."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def become_monitor(params: Params, begin: Callable[[Monitor, Client], object] | None = None) -> NoReturn:
    """Be the container's monitor until it has ended and everything of it is cleaned up.

    With *begin* the container only waits: a client that says start has *begin* called, in this very process.
    """
    try:
        # Until the loop has its handlers, a signal waits.
        waiting = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGURG)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, waiting)
        _settle(params)
        from rl.monitor.ending import finish
        from rl.monitor.loop import Monitor

        monitor = Monitor(params)
        if begin is None:
            monitor.until = time.monotonic() + LINGER
            monitor.started()
        else:
            monitor.begin = lambda client: begin(monitor, client)
        if not monitor.run():
            attempt(monitor)
            monitor.run()  # no memory, no helper: the container is worth more than 9 MB
        finish(monitor)
    except BaseException:
        if os.environ.get("RL_DEBUG"):
            with open(f"{params['container_dir']}/monitor.err", "w", encoding="utf-8") as file:
                import traceback

                traceback.print_exc(file=file)
        os._exit(1)
    # As conmon: who has the monitor for its main process sees how the container ended.
    os._exit(params["state"]["exit_code"] & 0xFF)


def _settle(params: Params) -> None:
    """Defaults, and what a daemon owes: stdio on /dev/null, no working directory, no stray descriptors."""
    params.setdefault("slave_fd", -1)
    params.setdefault("spare_fd", -1)
    params.setdefault("keep_fds", [])
    params.setdefault("helpers", [])
    params.setdefault("stop_signal", 15)
    params.setdefault("stop_timeout", 10)
    params.setdefault("oom_events", [f"{params['cgroup']}/memory.events"] if params.get("cgroup") else [])
    params["package_root"] = package_root()
    params.setdefault("clients", [])
    if params.get("client_fd", -1) >= 0:
        params["clients"].append({"first": True, **params.get("client", {}), "fd": params["client_fd"]})
    if params["terminal"]:
        from rl.monitor import peer

        params["slave_fd"] = peer.open_terminal(params["master_fd"])
    params["spare_fd"] = _reserve(params)
    params["oom_score_adj"] = _read("/proc/self/oom_score_adj")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")
    close_others(kept(params))
    try:
        os.setsid()
    except PermissionError:
        pass  # it leads a session already
    # Without privilege no lower than a privileged process, such as systemd, has once set it: 0 or 100, as a rule.
    for score in (-900, 0, 100):
        if score < int(params["oom_score_adj"]) and _write("/proc/self/oom_score_adj", b"%d" % score):
            break
    _write("/proc/self/comm", b"rl-monitor")


def kept(params: Params) -> list[int]:
    """The descriptors that the monitor lives by."""
    found: list[int] = [params[key] for key in _FDS]  # type: ignore[literal-required]
    if params.get("health"):
        found.append(params["health"].get("fd", -1))
    others = params["keep_fds"] + params.get("stdio_fds", []) + [client["fd"] for client in params["clients"]]
    others += [fd for fd in (params.get("notify", {}).get("fd", -1),) if fd >= 0]
    return [fd for fd in found if fd >= 0] + others


def close_others(wanted: list[int]) -> None:
    """Close every descriptor above 2 that is not in *wanted*."""
    first = 3
    for fd in sorted({fd for fd in wanted if fd > 2}):
        if fd > first:
            process.close_range(first, fd - 1)
        first = fd + 1
    process.close_range(first)


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


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, data: bytes) -> bool:
    """Whether it could be written."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, data)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def replace(params: Params) -> NoReturn:
    """exec the interpreter with helpers/rl-monitor, those in *params* or else our own; returns only by raising."""
    # Kept in the state: the lean interpreter does not know the environment that rl is installed in.
    helper = params["helper"] = params.get("helper") or helper_program()
    program = params["interpreter"] = params.get("interpreter") or interpreter()
    state: dict[str, Any] = dict(params)
    memory = os.memfd_create("rl-monitor", 0)
    try:
        # In pieces: what clients have not taken yet may be more than one write(2) takes.
        rest = memoryview(marshal.dumps(state, 2))
        while rest:
            rest = rest[os.write(memory, rest) :]
        os.lseek(memory, 0, os.SEEK_SET)
        for fd in kept(params):
            os.set_inheritable(fd, True)
        os.execve(program, [program, *FLAGS, helper, params["id"], str(memory)], _environment())
    finally:
        os.close(memory)
        for fd in kept(params):
            os.set_inheritable(fd, False)  # this process goes on, and it starts health checks


def attempt(monitor: Monitor) -> str:
    """As :func:`replace`, with all that *monitor* has; returns only when that fails: why. Then it can go on."""
    try:
        replace(monitor.export())
    except OSError as error:
        why = str(error.strerror)
    except RlError as error:
        why = error.message
    monitor.unblock_signals()
    return why


#: What a later start of the container reads of the caller's environment, beside XDG_… and CONTAINERS_…: where things
#: are. Nothing else is kept: it may be a secret, and is what an interpreter acts upon.
_KEPT = frozenset(
    "PATH HOME USER LOGNAME TZ TMPDIR DBUS_SESSION_BUS_ADDRESS INVOCATION_ID NOTIFY_SOCKET RL_DEBUG".split()
)


def _environment() -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if key in _KEPT or key.startswith(("XDG_", "CONTAINERS_"))
    }
