"""What killed processes left, removed by the next command that looks.

SIGKILL can end a command line, a monitor or both between any two system calls. Everything they make is either
complete by one rename(2) or found here: staging directories and names without a container, run directories whose lock
nobody holds, the files a network helper is started with, a cgroup, an external runtime's state. Whoever lives holds
a lock or is alive under the pid in the file's name, so a sweep never disturbs a command at work.

Called by `rl ps` (through :func:`rl.engine.containers.tidy`, when there is something), rm, rmi, pull, load, import.
"""

from __future__ import annotations

import os

from rl.engine import containers, naming
from rl.engine.prefork import forget_run_directory, take_lock
from rl.engine.volume import records
from rl.errors import RlError
from rl.runtime import userns
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths

#: Files in the run directory that live while the process does whose pid ends their name.
BY_PID = ("netns.", "slirp.")


def sweep(paths: Paths) -> None:
    """Remove all of it; what cannot be removed now is left for the next time."""
    for step in (_run_directories, naming.sweep, _run_files, _unpacking, _image_records, _probes, _builds,
                 records.sweep):
        try:
            step(paths)
        except (OSError, RlError):
            continue


def _run_directories(paths: Paths) -> None:
    for container_id in os.listdir(f"{paths.run}/containers"):
        lock_file = f"{paths.container_run(container_id)}/lock"
        if userns.monitor_pid(lock_file):
            continue  # a monitor, or one to be
        try:
            if os.path.isdir(paths.container(container_id)):
                containers.read_state(paths, container_id)  # corrects the record, and then all is gone already
            if os.path.isdir(paths.container_run(container_id)):
                _forget_launch(paths, container_id)
        except (OSError, RlError):
            continue


def _forget_launch(paths: Paths, container_id: str) -> None:
    """A launch that was killed: its lock, socket, cgroup, and what an external runtime kept."""
    lock = take_lock(paths, container_id)
    try:
        from rl.runtime import cgroup
        from rl.runtime.cgroup import cgroupfs

        support = cgroupfs.detect()  # a scope of systemd's goes by itself
        if support.mode != "none":
            cgroup.Cgroup(f"{support.base}/{cgroup.PREFIX}{container_id}").remove()
        runtime_state = f"{paths.run}/runtime/{container_id}"
        if os.path.isdir(runtime_state):
            userns.call(paths.run, trash.remove_tree, runtime_state)
    finally:
        forget_run_directory(paths, container_id)
        os.close(lock)


def _run_files(paths: Paths) -> None:
    """A namespace's mount point and an API socket, needed only until the helper is up."""
    _remove_dead(paths.run, BY_PID)
    if paths.run.startswith("/run/user/"):  # see rl.network.namespace.pin_path
        _remove_dead("/".join(paths.run.split("/")[:4]) + "/netns", ("rl-",))


def _unpacking(paths: Paths) -> None:
    """Staging directories of layers, whose files belong to subordinate ids."""
    if any(name[0] == "." for name in os.listdir(paths.layers)):
        from rl.storage.staging import remove_stale

        userns.call(paths.run, remove_stale, paths)


def _image_records(paths: Paths) -> None:
    """Records that were never renamed into place: whoever writes one holds the lock."""
    if len([name for name in os.listdir(paths.images) if name[0] == "."]) > 1:
        from rl.image.content import records_lock

        with records_lock(paths, exclusive=True):
            for name in os.listdir(paths.images):
                if name[0] == "." and name != ".lock":
                    os.unlink(f"{paths.images}/{name}")


def _builds(paths: Paths) -> None:
    """Directories of killed workers of builds."""
    if os.path.isdir(f"{paths.data}/build"):
        from rl.engine.build.cache import sweep_work

        sweep_work(paths)


def _probes(paths: Paths) -> None:
    """Directories of the storage drivers' trial mounts."""
    for name in os.listdir(paths.data):
        if name.startswith(".probe-") and not _alive(name):
            userns.call(paths.run, trash.remove_tree, f"{paths.data}/{name}")


def _remove_dead(directory: str, prefixes: tuple[str, ...]) -> None:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(prefixes) and not _alive(name):
            try:
                os.unlink(f"{directory}/{name}")
            except OSError:
                continue


def _alive(name: str) -> bool:
    """Whether the pid at the end of *name* is a process, or there is no pid: then nothing is known."""
    digits = name.rpartition("-" if "-" in name else ".")[2]
    return not digits.isdigit() or os.path.exists(f"/proc/{digits}")
