"""The root file system of a container as a descriptor, whether it runs or not, for cp, export, commit and mount.

:func:`inside` runs a function where the files can be reached: in a child in the shared user namespace, with a mount
namespace of its own, so that nothing it mounts outlives it. There :func:`open_root` gives the root:

- of a running container what the container itself sees, through /proc/PID/root of its init, or, ``plain``, the root
  file system alone, through its monitor, in whose mount namespace nothing lies above it. One that waits to be started
  again has no init: what its monitor has mounted is brought here, and the volumes above it;
- of another one its layers, mounted by its storage driver under the container's lock, so that no start comes between;
  volumes and bind mounts from the record above them, unless ``plain``.

Paths in there are for :func:`rl.runtime.rootpath.resolve` only: a symbolic link of the container leads nowhere else
(CVE-2018-15664, CVE-2019-14271).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rl.engine import containers, rootfs, volumes
from rl.engine.mountpoints import Mountpoints
from rl.engine.prefork import AT_THE_FILES, PATIENCE, forget_run_directory, take_lock
from rl.errors import RlError, StateError, disk_hint
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import proc, process
from rl.runtime import mountns, rootpath, userns
from rl.storage import driver as storage
from rl.storage.fuse_overlayfs import FuseOverlayfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState, IdRange, MountSpec
    from rl.config.paths import Paths
    from rl.storage.driver import Driver
    from rl.storage.tarwrite import Owner

_PATIENCE = 30.0  # seconds for a container that is being started, removed or copied from
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Root:
    """``fd``: the root directory, O_PATH. ``running``: whether processes of the container may change it meanwhile."""

    __slots__ = ("config", "fd", "running", "state")

    def __init__(self, fd: int, config: ContainerConfig, state: ContainerState, running: bool) -> None:
        self.fd = fd
        self.config = config
        self.state = state
        self.running = running


def inside(paths: Paths, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function(*arguments)``, in a child that may mount and sees every owner. See ``userns.call``.

    The child ends with this process: who kills a copy wants no more of it.
    """
    entered = userns.is_entered()
    return userns.call(paths.run, _bound, os.getpid(), entered, function, *arguments, entered=entered)


def _bound(parent: int, entered: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    if entered:
        ns.unshare(ns.CLONE_NEWNS)
        m.mount(None, "/", None, m.MS_REC | m.MS_SLAVE)
    process.prctl(process.PR_SET_PDEATHSIG, 9)  # after the change of credentials, which forgets it
    if os.getppid() != parent:
        os._exit(1)
    return function(*arguments)


@contextmanager
def open_root(paths: Paths, container_id: str, *, plain: bool = False) -> Iterator[Root]:
    """The root of the container; to be called by a function that :func:`inside` runs.

    Raises StateError for a container that is being started or removed for more than 30 s, RlError, OSError.
    """
    config = containers.read_config(paths, container_id)
    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        while True:
            lock, state = hold(paths, container_id)
            if lock >= 0:
                stack.callback(_release, paths, container_id, lock)
            try:
                fd = _open(paths, config, state, lock >= 0, plain, stack)
                break
            except StateError:  # it ended, or is started again, just now
                if lock >= 0 or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        stack.callback(os.close, fd)
        yield Root(fd, config, state, lock < 0)


def _open(
    paths: Paths, config: ContainerConfig, state: ContainerState, locked: bool, plain: bool, stack: ExitStack
) -> int:
    if not locked and plain:
        return _of_monitor(paths, config)
    if not locked and state["status"] in containers.LIVE:
        return _of_init(config, state)
    path = mount_stopped(paths, config, state, stack) if locked else _bring(paths, config, stack)
    if not plain:
        _mount_volumes(paths, config, state, path, stack)
    return os.open(path, _ROOT)


def hold(paths: Paths, container_id: str) -> tuple[int, ContainerState]:
    """(the container's lock, held; its state). The lock is -1 for one whose monitor has it, and its files mounted."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        state = containers.read_state(paths, container_id)
        if _is_mounted(paths, container_id, state):
            return -1, state
        try:
            lock = take_lock(paths, container_id, PATIENCE)
        except StateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        try:
            state = containers.read_state(paths, container_id)
        except RlError:
            os.close(lock)
            raise
        if state.get("status") not in containers.MONITORED:
            os.pwrite(lock, AT_THE_FILES, 0)
            return lock, state
        os.close(lock)


def _is_mounted(paths: Paths, container_id: str, state: ContainerState) -> bool:
    """Whether its monitor has its files mounted: not for a moment while it starts the container again."""
    if state.get("status") != "restarting":
        return state.get("status") in containers.MONITORED
    try:
        os.close(_of_monitor(paths, containers.read_config(paths, container_id)))
    except (StateError, OSError):
        return False
    return True


def _release(paths: Paths, container_id: str, lock: int) -> None:
    forget_run_directory(paths, container_id)
    os.close(lock)


def _of_init(config: ContainerConfig, state: ContainerState) -> int:
    """What the container sees. By a descriptor of /proc/PID: it is this process for ever, whoever gets the pid next."""
    directory = -1
    try:
        directory = os.open(f"/proc/{state['pid']}", _ROOT)
        if proc.start_time(state["pid"]) != state["pid_start"]:
            raise ProcessLookupError
        return os.open("root", _ROOT, dir_fd=directory)
    except (ProcessLookupError, FileNotFoundError):  # a process that has ended has no root
        raise StateError(f"container {config['name']} has ended this moment", "try again") from None
    finally:
        if directory >= 0:
            os.close(directory)


def _of_monitor(paths: Paths, config: ContainerConfig) -> int:
    """Raises StateError when nothing is mounted there: an empty directory is not the container's root."""
    if config["rootfs"] and not config.get("rootfs_overlay"):
        return os.open(config["rootfs"], _ROOT)
    path = monitors_view(paths, config["id"])
    fd = os.open(path, _ROOT)
    above = os.open(os.path.dirname(path), _ROOT)
    try:
        if _mount_id(fd) == _mount_id(above):
            os.close(fd)
            raise StateError(f"container {config['name']} is being started this moment", "try again")
    finally:
        os.close(above)
    return fd


def _mount_id(fd: int) -> str:
    """Which mount *fd* is on (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return file.read().partition("mnt_id:")[2].split(None, 1)[0]


def _bring(paths: Paths, config: ContainerConfig, stack: ExitStack) -> str:
    """Show here, where volumes can be mounted above it, what the monitor of a container has mounted; where."""
    if config["rootfs"] and not config.get("rootfs_overlay"):
        return config["rootfs"]
    target = f"{paths.container(config['id'])}/rootfs"
    mountns.attach_from(userns.monitor_pid(f"{paths.container_run(config['id'])}/lock"), target, target)
    stack.callback(m.umount, target, m.MNT_DETACH)
    return target


def monitors_view(paths: Paths, container_id: str) -> str:
    """The path of a running container's root file system by way of its monitor, which has it mounted."""
    pid = userns.monitor_pid(f"{paths.container_run(container_id)}/lock")
    if pid <= 0:
        raise StateError(f"container {container_id[:12]} has ended this moment", "try again")
    return f"/proc/{pid}/root{paths.container(container_id)}/rootfs"


def mount_stopped(
    paths: Paths, config: ContainerConfig, state: ContainerState, stack: ExitStack | None, *, lasting: bool = False
) -> str:
    """Mount the layers of a container whose lock the caller holds; where. *stack* unmounts it.

    *lasting*: a helper program that serves the mount outlives this process.
    """
    if config["rootfs"]:
        return config["rootfs"]
    chosen = storage.choose(paths, state.get("driver") or config["driver"])
    if lasting:
        chosen = stays(chosen)
    mounted = rootfs.mount(paths, chosen, config, userns.current_mode(), _quiet)
    if stack is not None:
        stack.callback(chosen.unmount, mounted)
    if not state.get("driver"):
        # What is written now is of this driver: the first start must take it too.
        state["driver"] = chosen.name
        try:
            containers.write_state(paths, config["id"], state)
        except OSError as error:
            what = f"write the record of container {config['name']}: {error.strerror}"
            raise RlError(what, disk_hint(error)) from None
    return mounted["target"]


def stays(chosen: Driver) -> Driver:
    """*chosen*, with mounts that outlive this process: fuse-overlayfs is a process of its own."""
    if isinstance(chosen, FuseOverlayfs):
        chosen.lasting = True
    return chosen


def _quiet(text: str) -> None:
    """Progress of long work: these verbs have nobody to tell it to."""


def _mount_volumes(
    paths: Paths, config: ContainerConfig, state: ContainerState, path: str, stack: ExitStack
) -> None:
    """Volumes, bind mounts and images where the container would see them; a source that is gone stays away.

    Over a bind with option O each start has a new writable layer, so here it is read-only.
    """
    owner = proc.outside(config["uid_map"], 0, 0), proc.outside(config["gid_map"], 0, 0)
    data = volumes.prepare(paths, config, path, owner)
    root = os.open(path, _ROOT)
    try:
        for spec in sorted(config["mounts"], key=lambda spec: spec["destination"].count("/")):
            source = data.get(spec["destination"], spec["source"] if spec["type"] == "bind" else "")
            if spec["type"] == "image" or spec.get("subpath") or spec.get("upper"):
                source = _made(paths, config, state, spec, source, stack)
            if source:
                _bind(root, source, spec["destination"], bool(spec.get("overlay") and not spec.get("upper")))
    finally:
        os.close(root)


def _made(
    paths: Paths, config: ContainerConfig, state: ContainerState, spec: MountSpec, source: str, stack: ExitStack
) -> str:
    """What a launch mounts by itself; "" where its source is gone."""
    undo: list[Callable[[], object]] = []
    driver = storage.choose(paths, state.get("driver") or config["driver"])
    plain: MountSpec = {**spec, "options": [option for option in spec["options"] if option != "U"]}
    try:
        return Mountpoints(paths, config, driver, undo, _quiet).source(
            config["mounts"].index(spec), plain, source, (0, 0)
        )
    except RlError:
        return ""
    finally:
        for action in undo:
            stack.callback(action)


def _bind(root: int, source: str, destination: str, readonly: bool) -> None:
    try:
        tree = m.open_tree(source, m.OPEN_TREE_CLONE | m.AT_RECURSIVE)
    except OSError:
        return
    try:
        if readonly:
            m.mount_setattr(tree, "", m.MOUNT_ATTR_RDONLY, recursive=True)
        ensure = rootpath.ensure_directory if os.path.isdir(source) else rootpath.ensure_file
        target = ensure(root, destination)
        try:
            m.move_mount(tree, "", target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


# --------------------------------------------------------------------------- ids


def to_shared(ranges: list[IdRange], inside_id: int) -> int:
    """The shared namespace's id of the container's id; the same without a user namespace of its own."""
    if not ranges:
        return inside_id
    shared = proc.outside(ranges, inside_id)
    if shared < 0:
        hint = "use --archive: files get its user's ids"
        raise RlError(f"the container's user namespace has no id {inside_id}", hint)
    return shared


def to_container(ranges: list[IdRange], shared: int) -> int:
    """The container's id of a shared one; the overflow id 65534 where it has none, as the kernel shows it."""
    return proc.inside(ranges, shared, 65534) if ranges else shared


def owner_of(config: ContainerConfig) -> Owner | None:
    """From owners as the shared namespace sees them to the container's own numbers; None: they are the same."""
    if not config["uid_map"]:
        return None
    return lambda uid, gid: (to_container(config["uid_map"], uid), to_container(config["gid_map"], gid))
