"""The monitor's half of `rl run`: from a container's record to its running process.

Runs in the forked monitor, inside the shared user namespace. The steps are the list :data:`STEPS`; each
is one method of :class:`Launch`, or one function of rl.engine.launch_network. What a step acquires it registers
in ``undo``, so that a failure of a later one leaves nothing behind. At the end the process becomes the lean monitor.
"""

from __future__ import annotations

import os
import time

from rl.config.jsonio import write_json
from rl.engine import cgroups, confinement, containers, events, identity, launch_network, oci, prefork
from rl.errors import RlError, UnsupportedError, UsageError, disk_hint, limit_hint, to_wire
from rl.kernel import proc, process
from rl.monitor import handover
from rl.runtime import container as runtime
from rl.storage import driver as storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any, Protocol

    from rl.config.model import ContainerConfig, ContainerState, MountSpec
    from rl.config.paths import Paths
    from rl.monitor.health import Health
    from rl.network.setup import Pending
    from rl.runtime.cgroup.systemd import Scope

    class Created(Protocol):
        """What every runtime makes: init's pid, a pidfd for it, the master of its terminal or -1."""

        pid: int
        pidfd: int
        master: int


    Steps = tuple[tuple[str, Callable[["Launch"], None]], ...]


def launch(
    paths: Paths, container_id: str, sock: _socket.socket, lock: int, mode: str, message: dict[str, Any],
    spans: list[dict[str, Any]], scope: Scope | None = None,
) -> None:
    """Run the container; returns only when a step failed, after telling the command line which."""
    work = Launch(paths, container_id, sock, lock, mode, message)
    work.scope = scope
    for progress in (*spans, {"ids": mode}):
        prefork.send_progress(sock, progress)
    try:
        if message.get("init"):
            from rl.engine import initialized

            work.walk(STEPS[:-1])
            initialized.wait_for_start(work, STEPS[-1:])
        else:
            work.walk(STEPS)
            work.become_monitor()
    except BaseException as error:
        work.roll_back()
        prefork.send_progress(sock, {"error": to_wire(error)})


class Launch:
    """What the steps share."""

    def __init__(
        self, paths: Paths, container_id: str, sock: _socket.socket, lock: int, mode: str, message: dict[str, Any]
    ) -> None:
        self.paths = paths
        self.id = container_id
        self.sock = sock
        self.lock = lock
        self.message = message
        events.adopt(paths, message["events"])
        self.directory = paths.container(container_id)
        self.config: ContainerConfig = {}
        self.context = oci.Context()
        self.context.id_mode = mode
        self.undo: list[Callable[[], object]] = []
        self.warnings: list[str] = []
        self.driver = ""
        self.mounted_by: list[int] = []  # helpers that serve the root file system
        self.net_fd = -1
        self.user_fd = -1
        self.namespace_fds: list[int] = []  # of other containers, while they are joined
        self.pending: Pending | None = None
        self.network: dict[str, Any] = {}
        self.helpers: list[int] = []  # pids to end with the container
        self.scope: Scope | None = None  # the systemd scope, if it is on its way already
        self.placement: cgroups.Placement
        self.io = runtime.Io()
        self.streams: dict[str, int] = {}  # the monitor's ends: stdout, stderr, stdin
        self.created: Created | None = None
        self.health: Health = {}  # for the monitor, once the command runs
        self.start: Callable[[], None] = lambda: None
        self.attach_fd = -1
        self.notify: dict[str, Any] = {}
        self.restarts = 0  # how often its policy has started it again

    def walk(self, steps: Steps) -> None:
        """Do the steps. Raises RlError; then :meth:`roll_back` is due."""
        for name, step in steps:
            began = time.monotonic_ns()
            try:
                step(self)
            except RlError as error:
                from rl.engine import denied

                raise denied.explain(error, self.config, self.context) from None
            except OSError as error:
                what = f"{name}: {error.filename + ': ' if error.filename else ''}{error.strerror}"
                raise RlError(what, disk_hint(error) or limit_hint(error)) from None
            prefork.send_progress(self.sock, {"step": name, "start": began, "end": time.monotonic_ns()})

    def read_record(self) -> None:
        """The container's record, and the log and attach socket of its monitor."""
        self.config = containers.read_config(self.paths, self.id)
        # The writable layer of one driver means nothing to another: the first start decides.
        self.driver = containers.read_state(self.paths, self.id).get("driver") or self.config["driver"]
        if self.attach_fd < 0:
            self.attach_fd = handover.listen(self.paths.container_run(self.id))
        self.limits = containers.limits(self.paths, self.config)
        self.config["env"] = containers.environment(self.paths, self.config)
        manager = self.message.get("cgroup_manager", "")
        self.placement = cgroups.Placement(self.config, self.limits, self._limit_refused, self.scope, manager)
        self.undo.append(self.placement.undo)
        self.placement.begin()

    # root file system ---------------------------------------------------------------------------
    def mount_rootfs(self) -> None:
        """The image's layers with the container's own writable layer on top, at containers/<id>/rootfs."""
        from rl.engine import rootfs

        if self.config["rootfs"] and not self.config.get("rootfs_overlay"):
            self.context.rootfs = self.config["rootfs"]
            return
        chosen = rootfs.choose(self.paths, self.driver, self.config, self._note)
        self.driver = chosen.name
        if self.config["rootfs"]:
            mounted = rootfs.mount_directory(self.paths, chosen, self.config)
        else:
            mounted = rootfs.mount(self.paths, chosen, self.config, self.context.id_mode, self._note)
        self.helpers += mounted["pids"]
        self.mounted_by = mounted["pids"]
        self.undo.append(lambda: chosen.unmount(mounted))
        self.context.rootfs = mounted["target"]

    def _note(self, text: str) -> None:
        prefork.send_progress(self.sock, {"note": text})

    def fill_volumes(self) -> None:
        """Volumes, the user's numbers, and the files that tell a container what it is."""
        config, context = self.config, self.context
        identity.lookup(config, context)
        owner = self.owner(context.uid, context.gid)
        if any(spec["type"] == "volume" for spec in config["mounts"]):
            from rl.engine import volumes

            context.volumes = volumes.prepare(self.paths, config, context.rootfs, owner)
        self._prepare_sources(owner)
        containerenv = f"{self.directory}/containerenv"
        with open(containerenv, "w", encoding="utf-8") as file:
            file.write(f'engine="rl"\nname="{config["name"]}"\nid="{self.id}"\nimage="{config["image"]}"\n'
                       f'imageid="{config["image_id"]}"\nrootless={0 if context.id_mode == "root" else 1}\n')
        context.binds.append((containerenv, "/run/.containerenv"))
        if config["timezone"]:
            zone = "/etc/localtime" if config["timezone"] == "local" else f"/usr/share/zoneinfo/{config['timezone']}"
            context.binds.append((os.path.realpath(zone), "/etc/localtime"))
        identity.write_entries(config, context, self.directory, self.owner(0, 0), self.message.get("uid"))
        if config.get("secrets"):
            self._show_secrets()

    def _prepare_sources(self, owner: tuple[int, int]) -> None:
        """Mounts whose source has to be made first: overlays, images, parts of volumes; and the option U."""
        config, context = self.config, self.context
        numbers = [number for number, spec in enumerate(config["mounts"]) if _needs_source(spec)]
        if not numbers:
            return
        from rl.engine.mountpoints import Mountpoints

        driver = storage.choose(self.paths, self.driver)
        made = Mountpoints(self.paths, config, driver, self.undo, self._note)
        for number in numbers:
            spec = config["mounts"][number]
            source = context.volumes.get(spec["destination"], spec["source"])
            context.sources[spec["destination"]] = made.source(number, spec, source, owner)
        self.helpers += made.pids
        self.mounted_by = [*self.mounted_by, *made.pids]

    def _show_secrets(self) -> None:
        from rl.engine import container_secrets

        container_secrets.hide(self.directory)
        self.undo.append(lambda: container_secrets.hide(self.directory))
        self.context.secrets = container_secrets.show(self.directory, self.config, self.owner)

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Ids of the container, as they are outside of a user namespace of its own."""
        return proc.outside(self.config["uid_map"], uid, uid), proc.outside(self.config["gid_map"], gid, gid)

    # runtime ------------------------------------------------------------------------------------
    def prepare_runtime(self) -> None:
        """cgroup, seccomp, stdio, and the OCI bundle."""
        self._enter_cgroup()
        self.context.seccomp = confinement.seccomp_profile(self.config)
        self._open_streams()
        self.spec = oci.specification(self.config, self.context)
        if self.config.get("cdi_devices"):
            from rl.engine.spec import cdi

            cdi.resolve(self.config["cdi_devices"], self.config["cdi_directories"]).apply(self.spec)
        if os.environ.get("NOTIFY_SOCKET"):
            from rl.engine import readiness

            self.notify = readiness.prepare(self.config, self.spec, self.directory)
        self.bundle = f"{self.directory}/bundle"
        os.makedirs(self.bundle, 0o700, exist_ok=True)
        write_json(f"{self.bundle}/config.json", self.spec, sync=False)
        if self.config.get("secrets"):
            from rl.engine import container_secrets

            self.undo.append(container_secrets.add_variables(self.directory, self.config, self.spec, self.bundle))

    def _enter_cgroup(self) -> None:
        self.placement.finish()
        self.warnings += self.placement.warnings
        if self.placement.manager or self.placement.place:
            self.context.resources = self.limits

    def _limit_refused(self, what: str, hint: str) -> None:
        if self.message.get("limits") == "strict":
            raise UnsupportedError(what, hint)
        self.warnings.append(what + (f" ({hint})" if hint else ""))

    def _open_streams(self) -> None:
        """Pipes between the container and its monitor; a terminal brings its own, passthrough needs none."""
        self.io.preserve = self.message.get("preserve", [])
        if self.config["log"]["driver"] == "passthrough":
            if any(map(os.isatty, range(3))):
                raise UsageError(
                    "--log-driver=passthrough would hand this terminal to the container, which could read what is "
                    "typed on it from then on", "redirect stdin, stdout and stderr, or use -it without it",
                )
            self.io.stdin, self.io.stdout, self.io.stderr = 0, 1, 2
            return
        if self.config["terminal"]:
            return
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.streams["stdout"], self.io.stdout = os.pipe2(os.O_CLOEXEC)
        self.streams["stderr"], self.io.stderr = os.pipe2(os.O_CLOEXEC)
        if self.config["stdin_open"]:
            self.io.stdin, self.streams["stdin"] = os.pipe2(os.O_CLOEXEC)
        else:
            self.io.stdin = null
        # A container that runs as another user must be able to reopen them: /dev/stdout, /dev/stderr.
        uid, gid = self.owner(self.context.uid, self.context.gid)
        for fd in (self.io.stdout, self.io.stderr, self.io.stdin):
            if fd != null:
                os.fchown(fd, uid, gid)

    def create_process(self) -> None:
        """The runtime makes the container's init, which waits to be started."""
        group, place = self.placement.group, self.placement.place
        procs = group.procs_path if group else ""
        if self.config["runtime"] == "rl":
            own = runtime.create(
                self.bundle, self.spec, self.io, container_id=self.id, cgroup_procs=procs, place=place,
                cache_dir=self.paths.cache,
                make_cwd=not self.config["options"].get("workdir"),  # the image's is made, a mistyped one is told
            )
            self.created, self.start = own, lambda: runtime.start(own)
            self.warnings += own.warnings
        else:
            from rl.runtime import external

            other = external.create(
                self.config["runtime"], self.id, self.bundle, self.spec, self.io, run_dir=self.paths.run,
                cgroup_procs=procs, place=place,
            )
            self.created, self.start = other, lambda: external.start(other)
        self.undo.append(lambda: _end(self.created.pid))  # type: ignore[union-attr]
        for fd in {self.io.stdin, self.io.stdout, self.io.stderr} - {0, 1, 2, -1}:
            os.close(fd)

    def start_process(self) -> None:
        """The command runs; the record says so."""
        assert self.created is not None
        state = self.state_as("running")
        state["started"] = containers.now()
        self._bind(state["pid"])
        self.start()
        containers.write_state(self.paths, self.id, state)
        self.state = state
        if "health" in self.config:
            from rl.engine import healthcheck

            self.health = healthcheck.begin(self.paths, self.config)
        for option, pid in (("pidfile", state["pid"]), ("conmon_pidfile", os.getpid())):
            if self.config["options"].get(option):
                with open(self.config["options"][option], "w", encoding="utf-8") as file:
                    file.write(f"{pid}\n")

    def state_as(self, status: str) -> ContainerState:
        """state.json with *status*, of a container that exists."""
        assert self.created is not None
        pid = self.created.pid
        return {
            "status": status, "pid": pid, "pid_start": process.start_time(pid), "monitor_pid": os.getpid(),
            "boot_id": process.boot_id(), "started": "", "finished": "", "exit_code": 0,
            "oom_killed": False, "error": "", "driver": self.driver, "network": self._network_record(),
            "cgroup": self._cgroup_path(), "cgroup_manager": self.placement.manager,
            "affinity": self.placement.affinity, "restarts": self.restarts,
        }

    def _bind(self, pid: int) -> None:
        """CPU affinity, in the place of a cpuset; what the process starts inherits it."""
        if not self.placement.affinity:
            return
        try:
            os.sched_setaffinity(pid, self.placement.affinity)
        except OSError as error:
            cpus = self.limits["cpu"]["cpus"]
            hint = "`nproc --all` tells how many there are"
            raise RlError(f"bind the container to CPUs {cpus}: {error.strerror}", hint) from None

    def _cgroup_path(self) -> str:
        return self.placement.group.path if self.placement.group else ""

    def _network_record(self) -> dict[str, Any]:
        record = {key: value for key, value in self.network.items() if key != "pids"}
        record["helpers"] = [[pid, process.start_time(pid)] for pid in self.helpers]
        return record

    # hand-over ----------------------------------------------------------------------------------
    def become_monitor(self) -> None:
        """Say that it runs, then replace this process by the lean monitor."""
        self.tell_ready()
        params = self.monitor_params()
        if self.message.get("attach", False):
            params["client_fd"], params["client"] = self.sock.detach(), self.message.get("streams", {})
        else:
            self.sock.close()
        handover.become_monitor(params)

    def tell_ready(self) -> None:
        """The command line has waited for this."""
        assert self.created is not None
        for warning in self.warnings:
            prefork.send_progress(self.sock, {"warning": warning})
        self.tell_event(*self._happened())
        prefork.send_progress(self.sock, {"started": self.created.pid})

    def monitor_params(self) -> handover.Params:
        """What the monitor has to know of the container."""
        assert self.created is not None
        passthrough = self.config["log"]["driver"] == "passthrough"
        timeout = int(self.config["options"].get("timeout", 0)) if self.state["status"] == "running" else 0
        return {
            "id": self.id,
            "container_dir": self.directory,
            "run_dir": self.paths.container_run(self.id),
            "trash_dir": self.paths.trash,
            "lock_fd": self.lock,
            "pid": self.created.pid,
            "pidfd": self.created.pidfd,
            "master_fd": self.created.master,
            "stdout_fd": self.streams.get("stdout", -1),
            "stderr_fd": self.streams.get("stderr", -1),
            "stdin_fd": self.streams.get("stdin", -1),
            "listen_fd": self.attach_fd,
            "client_fd": -1,
            "log": {**self.config["log"], "id": self.id, "name": self.config["name"]},
            "stdin_open": self.config["stdin_open"],
            "terminal": self.config["terminal"],
            "helpers": self.helpers,
            "wait_for_helpers": bool(self.config["network"].get("ports") or self.mounted_by),
            "keep_fds": [fd for fd in (self.net_fd, self.user_fd) if fd >= 0],
            "stdio_fds": [os.dup(fd) for fd in range(3)] if passthrough else [],
            "cgroup": self._cgroup_path(),
            "stop_signal": self.config["stop_signal"],
            "stop_timeout": self.config["stop_timeout"],
            "remove": self.config["remove"],
            "delete": self._to_delete(),
            "state": dict(self.state),
            "health": self.health,
            "restart": containers.restart_policy(self.paths, self.config),
            "restarts": self.restarts,
            "started": time.monotonic(),
            "deadline": time.monotonic() + timeout if timeout else 0.0,
            **({"notify": self.notify} if self.notify else {}),
            "events": self.message["events"],
            "image": self.config["image"],
            "labels": self.config["labels"],
            "launch": {
                "paths": [self.paths.data, self.paths.run, self.paths.config, self.paths.cache],
                "message": {**self.message, "attach": False},
            },
        }

    def tell_event(self, *statuses: str) -> None:
        """Emit events of this container."""
        events.emit_container(self.paths, self.config, *statuses)

    def _happened(self) -> tuple[str, ...]:
        """The events of a start; told here, for of the attached command line nobody knows how soon it would."""
        if self.state["status"] == "initialized":
            return ("init",)
        return ("init", "start", "attach") if self.message.get("attach") else ("init", "start")

    def _to_delete(self) -> list[str]:
        """What --rm removes beside the container's directory: its name and its anonymous volumes."""
        if not self.config["remove"]:
            return []
        gone = [f"{self.paths.names}/{self.config['name']}"]
        gone += [f"{self.paths.volumes}/{m['source']}" for m in self.config["mounts"] if m.get("anonymous")]
        if self.config["options"].get("cidfile"):
            gone.append(os.path.abspath(self.config["options"]["cidfile"]))
        return gone

    def roll_back(self) -> None:
        """Undo what the steps did, last first; each is tried."""
        for undo in reversed(self.undo):
            try:
                undo()
            except (OSError, RlError):
                continue
        for pid in self.helpers:
            _end(pid)


def _end(pid: int) -> None:
    from rl.engine.correction import end_process

    end_process(pid, process.start_time(pid))


def _needs_source(spec: MountSpec) -> bool:
    """Whether rl.engine.mountpoints has to do with a mount; it is imported only then."""
    if spec["type"] not in ("bind", "volume", "image"):
        return False
    return bool(spec.get("overlay") or spec.get("subpath") or spec["type"] == "image" or "U" in spec["options"])


#: What happens between the launch message and the running command, in order. The network helper starts
#: first and gets ready while the root file system is mounted and the container made.
STEPS: Steps = (
    ("hand over to the monitor", Launch.read_record),
    ("set up the network", launch_network.begin),
    ("join namespaces", launch_network.join),
    ("assemble the root file system", Launch.mount_rootfs),
    ("volumes and user", Launch.fill_volumes),
    ("hosts, resolv.conf, hostname", launch_network.write_files),
    ("prepare the runtime", Launch.prepare_runtime),
    ("create the container", Launch.create_process),
    ("network ready", launch_network.finish),
    ("start the command", Launch.start_process),
)
