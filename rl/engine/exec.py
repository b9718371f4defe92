"""rl exec: a further command in a running container.

The command line's own process joins the container and is the parent of the new process; no helper, no record.
Detached, a small process of ours stays as its parent. Source: podman-exec(1).
"""

from __future__ import annotations

import os

from rl.config.jsonio import dumps, loads, read_json
from rl.engine import containers, events, oci
from rl.errors import CorruptRecordError, RlError, StateError, UsageError, from_wire, to_wire
from rl.kernel import process as kp
from rl.monitor import terminal
from rl.runtime import exec as runtime
from rl.runtime import hooks, seccomp, users
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState
    from rl.engine.context import Engine
    from rl.runtime.container import Created


def exec_(
    engine: Engine, container: str, command: list[str], *, tty: bool = False, interactive: bool = False,
    detach: bool = False, env: list[str] | None = None, user: str = "", workdir: str = "", privileged: bool = False,
    preserve_fds: int = 0, detach_keys: str | None = None,
) -> int | str:
    """Run *command* in *container*; the command's exit code (128 + signal), or the session's id when detached.

    *env* are ``NAME=VALUE`` items on top of the container's environment; *user* and *workdir* default to the
    container's. With *tty* and *interactive* the caller's terminal is in raw mode while the command runs, and
    *detach_keys* (default ctrl-p,ctrl-q) leave it running: then the result is 0. Raises StateError when the
    container does not run, CommandNotFoundError (127), CommandNotExecutableError (126), UsageError, RlError.
    """
    if not command:
        raise UsageError("exec: no command given", "rl exec CONTAINER COMMAND [ARGUMENT…]")
    if detach_keys is not None:
        terminal.parse_detach_keys(detach_keys)  # before anything runs
    preserve: list[int] = []
    if preserve_fds:
        from rl.runtime.program.common import preserved

        preserve = preserved(preserve_fds)  # before we open anything ourselves
    session = _Session(engine, container)
    try:
        session.fill(command, tty, list(env or []), user, workdir, privileged)
        session.preserve = preserve
        if detach:
            return _detached(session)
        return _attached(session, interactive, detach_keys)
    finally:
        os.close(session.pidfd)


class _Session:
    """The container, and the process that is to run in it."""

    __slots__ = ("config", "engine", "id", "pid", "pidfd", "preserve", "privileged", "process", "spec", "state", "user")

    def __init__(self, engine: Engine, container: str) -> None:
        self.engine = engine
        self.id = containers.find(engine.paths, container)
        self.config: ContainerConfig = containers.read_config(engine.paths, self.id)
        self.state: ContainerState = containers.read_state(engine.paths, self.id)
        self.pid = self.state.get("pid", 0)
        self.pidfd = _open_running(self.config, self.state)
        self.preserve: list[int] = []
        self.process: dict[str, Any] = {}
        self.user = ""
        self.privileged = False
        path = f"{engine.paths.container(self.id)}/bundle/config.json"
        try:
            self.spec: dict[str, Any] = read_json(path)
        except (OSError, ValueError) as error:
            os.close(self.pidfd)
            raise CorruptRecordError(
                f"read {path}: {error}", f"restart the container with `rl stop` and `rl start {self.config['name']}`"
            ) from None

    def fill(
        self, command: list[str], tty: bool, env: list[str], user: str, workdir: str, privileged: bool
    ) -> None:
        """The OCI process: the container's own, changed by what was asked."""
        if workdir and not workdir.startswith("/"):
            raise UsageError(f"--workdir {workdir!r} must be an absolute path in the container")
        process = dict(self.spec["process"])
        process.update(args=command, terminal=tty, cwd=workdir or process.get("cwd") or "/")
        own = list(process.get("env") or [])
        if self.config.get("secrets"):
            from rl.engine import container_secrets

            own += container_secrets.environment(self.engine.paths.container(self.id), self.config)
        process["env"] = self._environment(own, env, bool(user), tty)
        process.pop("consoleSize", None)
        if tty:
            rows, columns = terminal.window_size(0)
            process["consoleSize"] = {"height": rows, "width": columns}
        self.process, self.user, self.privileged = process, user, privileged

    def _environment(self, base: list[str], extra: list[str], other_user: bool, tty: bool) -> list[str]:
        if other_user and not any(item.startswith("HOME=") for item in self.config["env"]):
            base = [item for item in base if not item.startswith("HOME=")]  # the other user's own, looked up inside
        names = {item.partition("=")[0] for item in base + extra}
        if tty and "TERM" not in names:
            base.append("TERM=xterm")
        return base + extra

    def decide(self, root: int, process: dict[str, Any]) -> None:
        """Called inside the container: the user's numbers, and the capabilities that follow from them."""
        if self.user:
            uid, gid, groups, _ = users.lookup(root, self.user)
            umask = process["user"].get("umask", 0o022)
            process["user"] = {"uid": uid, "gid": gid, "additionalGids": groups, "umask": umask}
        config: ContainerConfig = self.config
        if self.privileged:
            config = {**config, "privileged": True, "cap_drop": []}
        uid = process["user"]["uid"]
        sets = oci.process_capabilities(config, uid)
        if uid and self.user and self.user != self.config["user"]:
            # What --cap-add gave was for the container's own user (as in Podman); others may still be allowed it.
            sets = {kind: names if kind == "bounding" else [] for kind, names in sets.items()}
        process["capabilities"] = sets

    def spawn(self, io: Io) -> Created:
        """Start it."""
        profile = (self.spec.get("linux") or {}).get("seccomp")
        cgroup = self.state.get("cgroup") or ""
        by_systemd = self.state.get("cgroup_manager") == "systemd"
        if self.state.get("affinity"):
            os.sched_setaffinity(0, self.state["affinity"])  # ours is inherited
        state = None
        if profile and profile.get("listenerPath"):
            bundle = f"{self.engine.paths.container(self.id)}/bundle"
            state = hooks.state(self.spec, bundle, self.id, "running", self.pid)
        specification = {"process": self.process, "annotations": self.spec.get("annotations")}
        created = runtime.spawn(
            self.pid, self.pidfd, specification, io, decide=self.decide,
            cgroup_procs=f"{cgroup}/cgroup.procs" if cgroup else "",
            place=runtime.by_systemd(cgroup, self.engine.warn) if by_systemd else None,
            seccomp_program=seccomp.program_for(profile, self.engine.paths.cache) if profile else None,
            seccomp_flags=seccomp.flags_of(profile) if profile else 0, profile=profile,
            state=state,
        )
        events.emit_container(self.engine.paths, self.config, "exec")
        for warning in created.warnings:
            self.engine.warn(warning)
        return created

    def wait(self, created: Created) -> int:
        """The exit code of what :meth:`spawn` started, once it has ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1])
        code = code if code >= 0 else 128 - code
        events.emit_container(self.engine.paths, self.config, "exec_died", containerExitCode=str(code))
        return code


def _open_running(config: ContainerConfig, state: ContainerState) -> int:
    """A pidfd of the container's init; its start time tells it from a later process of that number."""
    status = state.get("status", "")
    if status == "running":
        try:
            pidfd = os.pidfd_open(state["pid"])
        except OSError:
            pidfd = -1
        if pidfd >= 0:
            if kp.start_time(state["pid"]) == state.get("pid_start"):
                return pidfd
            os.close(pidfd)
        status = "exited"
    name = config["name"] or config["id"][:12]
    raise StateError(
        f"container {name} is {status}: can only create exec sessions on running containers: container state improper",
        f"rl unpause {name}" if status == "paused" else f"rl start {name}",
    )


def _attached(session: _Session, interactive: bool, detach_keys: str | None) -> int:
    """Run it with the caller's streams. What is no terminal is handed over as it is; a terminal never is."""
    from rl.engine import exec_streams as streams

    relay = streams.Relay(interactive, bool(session.process["terminal"]), detach_keys)
    try:
        created = session.spawn(relay.io(session.preserve))
        relay.started(created)
        detached = relay.run()
    finally:
        relay.close()
    if detached:
        _linger(created)
        return 0
    code = session.wait(created)
    os.close(created.pidfd)
    return code


def _linger(created: Created) -> None:
    """Leave a process that keeps the terminal alive and empty: closed, the command would get SIGHUP."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(write_end)
        os.read(read_end, 1)  # its end: it has left our session, whose hang-up would reach it
        os.close(read_end)
        os.close(created.master)
        return
    try:
        _leave_terminal(keep=created.master)
        _drain(created.master)
    finally:
        os._exit(0)


def _detached(session: _Session) -> str:
    """A process of ours becomes the command's parent, reports how the start went, and waits."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        try:
            os.close(read_end)
            _stay(session, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    if not data:
        raise RlError("exec: the process that was to wait for the command has ended")
    answer = loads(data.decode())
    if "error" in answer:
        raise from_wire(answer["error"])
    return os.urandom(32).hex()


def _stay(session: _Session, pipe: int) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    created = None
    try:
        created = session.spawn(Io(null, null, null, session.preserve))
        answer: dict[str, Any] = {"pid": created.pid}
    except BaseException as error:
        answer = {"error": to_wire(error)}
    os.write(pipe, dumps(answer).encode())
    if created is None:
        return
    _leave_terminal(keep=created.master)
    if created.master >= 0:
        _drain(created.master)
    session.wait(created)


def _leave_terminal(keep: int) -> None:
    """Become a session of our own that holds nothing but *keep*."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.chdir("/")
    kept = max(keep, 3)
    if keep > 3:
        kp.close_range(3, keep - 1)
    kp.close_range(kept + 1 if keep >= 3 else 3)


def _drain(master: int) -> None:
    os.set_blocking(master, True)
    try:
        while os.read(master, 1 << 16):
            pass
    except OSError:
        pass  # EIO: nobody has the terminal open any more
