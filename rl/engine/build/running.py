"""RUN: a command in a root file system that is mounted already, by our own runtime, without a container's record.

Runs in a worker of a build: inside the shared user namespace, in a mount namespace of its own. A :class:`Sandbox` keeps
what all RUNs of a worker share: the network namespace with its helper, which gets ready while files are mounted.

Called by rl.engine.build.worker. The OCI specification is made by rl.engine.oci, as for `rl run`.
"""

from __future__ import annotations

import os
import stat

from rl.config.jsonio import write_json
from rl.engine import cgroups, confinement, identity, oci
from rl.engine.build.runmounts import Mounts, Secrets
from rl.engine.exec_streams import Relay
from rl.errors import RlError, UnsupportedError
from rl.kernel import process
from rl.network import files, namespace, settings, setup
from rl.runtime import container as runtime
from rl.runtime import rootpath, userns
from rl.storage.trash import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, NetworkRequest
    from rl.config.paths import Paths
    from rl.engine.build.runmounts import RunMount
    from rl.network.setup import Pending

#: What the runtime makes to mount over, where it is missing; it is taken away again afterwards.
_PLACES = ("/dev", "/proc", "/sys", "/run", "/run/.containerenv", "/etc", "/etc/hosts", "/etc/hostname",
           "/etc/resolv.conf")


class RunSpec:
    """One RUN. ``argv``, ``env`` (``name=value``), ``workdir``, ``user``; ``mounts``; ``network``: default, none, host;
    ``insecure``: with all privileges; ``script``: the program that ``argv`` names, if that is one of a heredoc;
    ``stdin``: it has the caller's; ``terminal``: it is a shell that has a terminal, which the caller's is relayed to.
    """

    __slots__ = ("argv", "env", "insecure", "mounts", "network", "script", "secrets", "stdin", "terminal", "user",
                 "workdir")

    def __init__(self, argv: list[str], env: list[str], workdir: str, user: str) -> None:
        self.argv = argv
        self.env = env
        self.workdir = workdir
        self.user = user
        self.mounts: list[RunMount] = []
        self.secrets = Secrets()
        self.network = "default"
        self.insecure = False
        self.script = ""
        self.stdin = False
        self.terminal = False


class Sandbox:
    """What the RUNs of one worker share. *template*: the configuration that rl.engine.create made of the build's flags;
    *directory*: a place for files, on no image; *strict*: a limit that cannot be applied is an error, not a warning."""

    def __init__(
        self, paths: Paths, template: ContainerConfig, directory: str, warn: Callable[[str], None], strict: bool
    ) -> None:
        self._paths = paths
        self._template = template
        self._directory = directory
        self._warn = warn
        self._strict = strict
        self._refused: set[str] = set()  # limits that were told about
        self._networks: dict[str, _Network] = {}
        self._count = 0

    def prepare(self, mode: str) -> None:
        """Begin with the network of *mode*: its helper starts while the caller goes on. Raises RlError."""
        if mode not in self._networks:
            request: NetworkRequest = {**self._template["network"]}
            if mode != "default":
                request["mode"] = mode
                request["options"] = []
            self._networks[mode] = _Network(self._paths, request)

    def close(self) -> None:
        """End the helpers."""
        for network in self._networks.values():
            network.close()
        self._networks.clear()

    def run(self, root: str, spec: RunSpec, output: int) -> int:
        """The exit code of the command in the root file system *root*; *output* gets both of its streams.

        Killed by signal n: 128 + n. Raises RlError where it cannot be started (CommandNotFoundError is 127).
        """
        self._count += 1
        self.prepare(spec.network)
        directory = f"{self._directory}/run-{self._count}"
        os.mkdir(directory, 0o700)
        config = self._config(spec)
        mounts = Mounts(self._paths, f"{directory}/mounts", config, root)
        before = _missing(root, [*_PLACES, *(mount.target for mount in spec.mounts),
                                 *(entry["destination"] for entry in config["mounts"])])
        try:
            return self._walk(root, spec, config, directory, mounts, output)
        finally:
            mounts.close()
            _tidy(root, before)
            remove_tree(directory)

    def _walk(
        self, root: str, spec: RunSpec, config: ContainerConfig, directory: str, mounts: Mounts, output: int
    ) -> int:
        network = self._networks[spec.network]
        context = oci.Context()
        context.id_mode = userns.current_mode()
        context.rootfs = root
        identity.lookup(config, context)
        mounts.make(spec.mounts, (context.uid, context.gid), spec.secrets)
        context.sources = mounts.volumes(config["mounts"])
        config["env"] = [*config["env"], *mounts.variables]
        context.seccomp = confinement.seccomp_profile(config)
        network.name(context)
        self._files(network, config, context, directory)
        if spec.script:
            _write_script(f"{directory}/script", spec.script)
            mounts.entries.append({"destination": spec.argv[0], "type": "bind", "source": f"{directory}/script",
                                   "options": ["bind", "rprivate", "ro", "nosuid", "nodev"]})
        placement = self._placement(config, context)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            bundle = f"{directory}/bundle"
            os.mkdir(bundle, 0o700)
            document = oci.specification(config, context)
            document["mounts"] += mounts.entries
            document["mounts"].sort(key=_depth)
            write_json(f"{bundle}/config.json", document, sync=False)
            relay = Relay(True, True, "") if spec.terminal else None
            io = relay.io([]) if relay else runtime.Io(0 if spec.stdin else null, output, output)
            group = placement.group if placement else None
            created = runtime.create(
                bundle, document, io, container_id=config["id"], cgroup_procs=group.procs_path if group else "",
                place=placement.place if placement else None, cache_dir=self._paths.cache,
            )
            try:
                for warning in (*created.warnings, *network.ready()):
                    self._warn(warning)
                if placement and placement.affinity:
                    os.sched_setaffinity(created.pid, placement.affinity)
                runtime.start(created)
                if relay:
                    _relay(relay, created)
                code = _wait(created.pid)
            except BaseException:
                process.end(created)
                raise
            os.close(created.pidfd)
            return code
        finally:
            os.close(null)
            if placement:
                _remove(placement)

    def _config(self, spec: RunSpec) -> ContainerConfig:
        config: ContainerConfig = {**self._template}
        config["id"] = os.urandom(32).hex()
        config["env"], config["workdir"], config["user"] = spec.env, spec.workdir, spec.user
        config["command"], config["arguments"] = spec.argv, spec.argv
        config["hostname"] = config["hostname"] or config["id"][:12]
        config["terminal"] = spec.terminal
        if spec.insecure:
            config["privileged"] = True
        return config

    def _files(self, network: _Network, config: ContainerConfig, context: oci.Context, directory: str) -> None:
        """hosts, resolv.conf, hostname and /run/.containerenv, as in a container."""
        memory = settings.remembered(self._paths.run)
        containers = memory.config()
        base = ""
        if files.base_file(network.request, containers) == "image":
            base = _read(context.rootfs, "/etc/hosts")
        contents = files.render(network.request, network.result(), config["hostname"], "", containers, base)
        memory.save()
        contents["containerenv"] = ""
        for name, text in contents.items():
            path = f"{directory}/{name}"
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
            os.chmod(path, 0o644)
            context.binds.append((path, "/run/.containerenv" if name == "containerenv" else f"/etc/{name}"))

    def _placement(self, config: ContainerConfig, context: oci.Context) -> cgroups.Placement | None:
        """A cgroup of its own only where limits are asked for: it costs 20 ms."""
        if not config["limits"] and not config["options"].get("cgroup_parent"):
            return None

        def refused(what: str, hint: str) -> None:
            if self._strict:
                raise UnsupportedError(what, hint)
            if what not in self._refused:
                self._refused.add(what)
                self._warn(what + (f" ({hint})" if hint else ""))

        config["stop_timeout"] = 0
        placement = cgroups.Placement(config, config["limits"], refused)
        placement.begin()
        placement.finish()
        if placement.manager or placement.place:
            context.resources = config["limits"]
        return placement


class _Network:
    """A network namespace, its helper, and what is known of it."""

    def __init__(self, paths: Paths, request: NetworkRequest) -> None:
        self.request = request
        self._fd = -1
        self._path = ""
        self._result: dict[str, Any] | None = None
        mode = setup.effective_mode(request, paths.run)
        if mode.startswith("ns:"):
            self._path = mode[3:]
        elif mode != "host":
            self._fd = namespace.create(None, network=True)[1]
            self._path = f"/proc/{os.getpid()}/fd/{self._fd}"
        try:
            self._pending: Pending = setup.start(request, self._fd, run_dir=paths.run)
        except BaseException:
            if self._fd >= 0:
                os.close(self._fd)
            raise

    def name(self, context: oci.Context) -> None:
        if self._path:
            context.namespaces["network"] = self._path

    def result(self) -> dict[str, Any]:
        return self._result if self._result is not None else dict(self._pending.expected)

    def ready(self) -> list[str]:
        """Wait until packets go through; warnings, the first time."""
        if self._result is not None:
            return []
        self._result = self._pending.ready()
        return list(self._result.pop("warnings", []))

    def close(self) -> None:
        from rl.engine.correction import end_process

        if self._result is None:
            self._pending.cancel()
        else:
            for pid in self._result.get("pids", []):
                end_process(pid, process.start_time(pid))
        if self._fd >= 0:
            os.close(self._fd)


def _write_script(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o755)


def _depth(mount: dict[str, Any]) -> int:
    """Parents before children; what the runtime itself mounts keeps its order."""
    return str(mount["destination"]).rstrip("/").count("/")


def _relay(relay: Relay, created: runtime.Created) -> None:
    try:
        relay.started(created)
        relay.run()
    finally:
        relay.close()
        os.close(created.master)


def _wait(pid: int) -> int:
    """The exit code of the command, which is our child."""
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _remove(placement: cgroups.Placement) -> None:
    try:
        placement.undo()
    except (OSError, RlError):
        pass


def _read(root: str, path: str) -> str:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return rootpath.read_limited(fd, path, 8 << 20).decode(errors="surrogateescape")
    finally:
        os.close(fd)


# --------------------------------------------------------------------------- what the runtime leaves


def _missing(root: str, paths: list[str]) -> list[str]:
    """Those of *paths*, and of the directories above them, that the root file system does not have; deepest last."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    found: dict[str, None] = {}
    try:
        for path in paths:
            parts = [part for part in path.split("/") if part]
            for count in range(1, len(parts) + 1):
                here = "/" + "/".join(parts[:count])
                if here in found:
                    continue
                there = rootpath.resolve_or_none(fd, here)
                if there is None:
                    found[here] = None
                else:
                    os.close(there)
    except OSError:
        pass  # a path that cannot be looked at was not made by us
    finally:
        os.close(fd)
    return sorted(found, key=lambda path: path.count("/"))


def _tidy(root: str, paths: list[str]) -> None:
    """Remove what was made to mount over it: empty files, empty directories. What the command filled stays."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in reversed(paths):
            above, _, name = path.rpartition("/")
            directory = rootpath.resolve_or_none(fd, above or "/")
            if directory is None:
                continue
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=directory)
                elif stat.S_ISREG(status.st_mode) and not status.st_size:
                    os.unlink(name, dir_fd=directory)
            except OSError:
                pass  # it holds something by now, or is gone
            finally:
                os.close(directory)
    finally:
        os.close(fd)
