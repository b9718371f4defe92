"""A launch's namespaces and network: the steps of :data:`rl.engine.launch.STEPS` that make and join them.

The network helper is started first and waited for last, so that it gets ready while the container is made.
"""

from __future__ import annotations

import os

from rl.engine import containers
from rl.errors import RlError
from rl.kernel import mount
from rl.network import namespace, setup
from rl.runtime import mountns, rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.launch import Launch


def begin(work: Launch) -> None:
    """Make the namespaces that exist before the container, and let the network helper start."""
    config = work.config
    mode = setup.effective_mode(config["network"], work.paths.run)
    nested = (config["uid_map"], config["gid_map"]) if config["uid_map"] else None
    joined = mode.startswith(("container:", "ns:"))
    if joined:
        work.context.namespaces["network"] = _other_namespace(work, "net", mode)
    own = not joined and mode != "host"
    if own or nested is not None:
        other = _other_users(work) if nested else -1
        work.user_fd, work.net_fd = namespace.create(nested, network=own, join=other)
    work.pending = setup.start(config["network"], work.net_fd, run_dir=work.paths.run)
    work.undo.append(work.pending.cancel)
    if work.user_fd >= 0:
        work.context.namespaces["user"] = f"/proc/{os.getpid()}/fd/{work.user_fd}"
    if work.net_fd >= 0:
        work.context.namespaces["network"] = f"/proc/{os.getpid()}/fd/{work.net_fd}"


def _other_namespace(work: Launch, kind: str, mode: str) -> str:
    """The namespace file that ``container:ID`` or ``ns:PATH`` means."""
    how, _, rest = mode.partition(":")
    if how == "ns":
        return rest
    state = containers.read_state(work.paths, rest)
    if state.get("status") not in containers.LIVE:
        raise _not_running(kind, rest)
    try:
        fd = os.open(f"/proc/{state['pid']}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _not_running(kind, rest) from None
    work.namespace_fds.append(fd)  # the namespace stays, whatever becomes of the other container while we start
    return f"/proc/{os.getpid()}/fd/{fd}"


def _not_running(kind: str, container_id: str) -> RlError:
    short = container_id[:12]
    return RlError(f"join the {kind} namespace of container {short}: it is not running", f"rl start {short}")


def _other_users(work: Launch) -> int:
    """A descriptor of the user namespace to join with --userns=container:ID; -1 if it is not that."""
    mode = work.config["userns"]
    if not mode.startswith("container:"):
        return -1
    return os.open(_other_namespace(work, "user", mode), os.O_RDONLY | os.O_CLOEXEC)


def join(work: Launch) -> None:
    """--pid, --ipc, --uts, --cgroupns of another container or of a file."""
    for kind, file, key in (("pid", "pid", "pid_mode"), ("ipc", "ipc", "ipc_mode"), ("uts", "uts", "uts_mode"),
                            ("cgroup", "cgroup", "cgroupns_mode")):
        mode: str = work.config[key]  # type: ignore[literal-required]
        if mode.startswith(("container:", "ns:")):
            work.context.namespaces[kind] = _other_namespace(work, file, mode)
            if kind == "ipc" and mode.startswith("container:"):
                _share_memory(work, mode.partition(":")[2])


def _share_memory(work: Launch, other: str) -> None:
    """The other container's /dev/shm: POSIX shared memory is a file system, not part of the IPC namespace."""
    target = f"{work.directory}/shm"
    os.makedirs(target, 0o700, exist_ok=True)
    mountns.attach_from(containers.read_state(work.paths, other)["pid"], "/dev/shm", target)
    work.undo.append(lambda: mount.umount(target, mount.MNT_DETACH))
    work.context.shared_memory = target


def write_files(work: Launch) -> None:
    """hosts, resolv.conf and hostname, for the network as it will most likely be: its helper still starts."""
    assert work.pending is not None
    work.network = dict(work.pending.expected)
    mode = work.config["network"].get("mode", "default")
    if mode.startswith("container:"):
        other = work.paths.container(mode.partition(":")[2])
        for name in ("resolv.conf", "hosts", "hostname"):
            if os.path.exists(f"{other}/{name}"):
                work.context.binds.append((f"{other}/{name}", f"/etc/{name}"))
        return
    owner = work.owner(0, 0)
    for name, text in _render(work).items():
        path = f"{work.directory}/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o644)
        os.chown(path, *owner)
        work.context.binds.append((path, f"/etc/{name}"))


def _render(work: Launch) -> dict[str, str]:
    from rl.network import files, settings

    memory = settings.remembered(work.paths.run)
    request, config = work.config["network"], memory.config()
    own = _image_file(work, "/etc/hosts") if files.base_file(request, config) == "image" else ""
    contents = files.render(request, work.network, work.config["hostname"], work.config["name"], config, own)
    memory.save()
    return contents


def _image_file(work: Launch, path: str) -> str:
    """A text file of the image; "" where it has none."""
    root = os.open(work.context.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return rootpath.read_limited(root, path, 8 << 20).decode(errors="surrogateescape")
    finally:
        os.close(root)


def finish(work: Launch) -> None:
    """Wait for the helper; if another rung of the ladder was taken, the files are corrected in place."""
    assert work.pending is not None
    expected, work.network = work.network, work.pending.ready()
    work.helpers += work.network["pids"]
    work.placement.adopt(work.helpers)
    work.warnings += work.network.pop("warnings", [])
    if any(expected.get(key) != value for key, value in work.network.items() if key != "pids"):
        bound = {source for source, _ in work.context.binds}
        for name, text in _render(work).items():
            path = f"{work.directory}/{name}"
            if path in bound:  # the container has this very inode mounted
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
