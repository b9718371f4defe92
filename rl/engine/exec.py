"""rl exec: a further command in a running container.

The command line's own process joins the container and is the parent of the new process; no helper. Detached, a small
process of ours stays (:mod:`rl.engine.exec_detached`). Its record is one file while it runs
(:mod:`rl.runtime.sessions`). Source: podman-exec(1).
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.engine import containers
from rl.errors import CorruptRecordError, StateError, UsageError
from rl.kernel import process as kp
from rl.runtime import exec as runtime
from rl.runtime import seccomp
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState
    from rl.engine.context import Engine
    from rl.runtime.spawning import Created


def exec_(
    engine: Engine, container: str, command: list[str], *, tty: bool = False, interactive: bool = False,
    detach: bool = False, env: list[str] | None = None, user: str = "", workdir: str = "", privileged: bool = False,
    preserve_fds: int = 0, preserve_fd: list[str] | None = None, detach_keys: str | None = None, record: bool = True,
) -> int | str:
    """Run *command* in *container*; the command's exit code (128 + signal), or the session's id when detached.

    *env* are ``NAME=VALUE`` items on top of the container's environment; *user* and *workdir* default to the
    container's. With *tty* and *interactive* the caller's terminal is in raw mode while the command runs, and
    *detach_keys* (default: containers.conf's, else ctrl-p,ctrl-q) leave it running: then the result is 0.
    *preserve_fds* descriptors from 3 on are passed on, or those of *preserve_fd*, by the same numbers. Without *record*
    the session is neither shown by `inspect` nor told by events. Raises StateError when the container does not run,
    CommandNotFoundError (127), CommandNotExecutableError (126), UsageError, RlError.
    """
    if not command:
        raise UsageError("exec: no command given", "rl exec CONTAINER COMMAND [ARGUMENT…]")
    if detach_keys is None and tty and interactive:
        from rl.config import containersconf

        detach_keys = containersconf.load(engine.paths.run).get("engine.detach_keys")
    if detach_keys is not None:
        from rl.monitor import terminal

        terminal.parse_detach_keys(detach_keys)  # before anything runs
    preserve: list[int] = []
    if preserve_fds or preserve_fd:
        from rl.engine.run import preserved

        preserve = preserved({"preserve_fds": preserve_fds, "preserve_fd": preserve_fd or []})
    session = Session(engine, container)
    try:
        session.fill(command, tty, list(env or []), user, workdir, privileged)
        session.preserve, session.recorded = preserve, record
        if detach:
            from rl.engine.exec_detached import detached

            return detached(session)
        return _attached(session, interactive, detach_keys)
    finally:
        os.close(session.pidfd)


class Session:
    """The container, and the process that is to run in it."""

    __slots__ = (
        "config", "engine", "file", "id", "pid", "pidfd", "preserve", "privileged", "process", "recorded", "session_id",
        "spec", "state", "user",
    )

    def __init__(self, engine: Engine, container: str) -> None:
        self.engine = engine
        self.id = containers.find(engine.paths, container)
        self.config: ContainerConfig = containers.read_config(engine.paths, self.id)
        self.state: ContainerState = containers.read_state(engine.paths, self.id)
        self.pid = self.state.get("pid", 0)
        self.pidfd = _open_running(self.config, self.state)
        self.preserve: list[int] = []
        self.recorded = True
        self.session_id = os.urandom(32).hex()
        self.file = ""  # its record, while it runs
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
        own = self._updated(list(process.get("env") or []))
        if self.config.get("secrets"):
            from rl.config import secretcopies

            own += secretcopies.variables(self.engine.paths.container(self.id), self.config["secrets"])
        process["env"] = self._environment(own, env, bool(user), tty)
        process.pop("consoleSize", None)
        if tty:
            from rl.monitor import terminal

            rows, columns = terminal.window_size(0)
            process["consoleSize"] = {"height": rows, "width": columns}
        self.process, self.user, self.privileged = process, user, privileged

    def _updated(self, base: list[str]) -> list[str]:
        """*base* as `rl update --env` has changed it since the start."""
        before, now = self.config["env"], containers.environment(self.engine.paths, self.config)
        gone = {line.partition("=")[0] for line in before} - {line.partition("=")[0] for line in now}
        new = [line for line in now if line not in before]
        names = gone | {line.partition("=")[0] for line in new}
        return [line for line in base if line.partition("=")[0] not in names] + new

    def _environment(self, base: list[str], extra: list[str], other_user: bool, tty: bool) -> list[str]:
        if other_user and not any(item.startswith("HOME=") for item in self.config["env"]):
            base = [item for item in base if not item.startswith("HOME=")]  # the other user's own, looked up inside
        names = {item.partition("=")[0] for item in base + extra}
        if tty and "TERM" not in names:
            base.append("TERM=xterm")
        return base + extra

    def begin(self, pid: int) -> None:
        """Its command runs, as *pid*: put it on record."""
        if self.recorded:
            from rl.engine import events
            from rl.runtime import sessions

            self.file = sessions.record(self.engine.paths.container_run(self.id), self.session_id, pid)
            events.emit_container(self.engine.paths, self.config, "exec")

    def end(self, code: int) -> None:
        """Its command has ended with *code*."""
        if self.recorded:
            from rl.engine import events
            from rl.runtime import sessions

            sessions.remove(self.file)
            events.emit_container(
                self.engine.paths, self.config, "exec_died", containerExitCode=str(code), execID=self.session_id
            )

    def decide(self, root: int, process: dict[str, Any]) -> None:
        """Called inside the container: the user's numbers, and the capabilities that follow from them."""
        from rl.engine import oci
        from rl.runtime import users

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
        decide = None
        if self.user or self.privileged:
            from rl.engine import oci  # noqa: F401  # inside, an import would come from the container

            decide = self.decide
        state = None
        if profile and profile.get("listenerPath"):
            from rl.runtime import hooks

            bundle = f"{self.engine.paths.container(self.id)}/bundle"
            state = hooks.state(self.spec, bundle, self.id, "running", self.pid)
        specification = {"process": self.process, "annotations": self.spec.get("annotations")}
        created = runtime.spawn(
            self.pid, self.pidfd, specification, io, decide=decide,
            meanwhile=_import_rest if self.recorded else None,
            cgroup_procs=f"{cgroup}/cgroup.procs" if cgroup else "",
            place=runtime.by_systemd(cgroup, self.engine.warn) if by_systemd else None,
            seccomp_program=seccomp.program_for(profile, self.engine.paths.cache) if profile else None,
            seccomp_flags=seccomp.flags_of(profile) if profile else 0, profile=profile,
            state=state,
        )
        for warning in created.warnings:
            self.engine.warn(warning)
        return created


def _import_rest() -> None:
    """What is needed once the command runs: imported while the container is joined, which takes longer."""
    from rl.engine import events  # noqa: F401
    from rl.runtime import sessions  # noqa: F401


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


def _attached(session: Session, interactive: bool, detach_keys: str | None) -> int:
    """Run it with the caller's streams. What is no terminal is handed over as it is; a terminal never is."""
    from rl.engine import exec_streams as streams

    relay = streams.Relay(interactive, bool(session.process["terminal"]), detach_keys)
    try:
        created = session.spawn(relay.io(session.preserve))
        session.begin(created.pid)
        relay.started(created)
        detached = relay.run()
    finally:
        relay.close()
    if detached:
        from rl.engine.exec_detached import linger

        linger(session, created)
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1])
    os.close(created.pidfd)
    code = code if code >= 0 else 128 - code
    session.end(code)
    return code
