"""The monitor's exit duties, from the container's last output to the last file of it.

Called by `rl.monitor.main` and `rl.monitor.handover` when the container's init has ended. :data:`STEPS` is the order;
each step is tried whatever became of the others, and none can wait for long: waiters must be told and resources freed
even when the disk is full. No second program is started. A container that is to run again (`rl.monitor.restart`) goes
no further than its cgroup: the monitor stays.

1. Drain the streams, close the log. 2. Ask the cgroup whether memory ran out. 3. Kill what the container left running
(with a shared pid namespace). 4. End pasta, fuse-overlayfs and the like. 5. Remove the cgroup. 6. Write state.json, or
with --rm rename the container into the trash and free its name; tell the log of events. 7. Remove the run directory and
give the lock back: from here `start` and `rm` work. 8. Tell waiters and attached clients. 9. Erase the trash, which
nobody waits for.
"""

from __future__ import annotations

import posix
import select
import time

from rl.config.jsonio import dumps, write_atomic
from rl.monitor.clients import Client
from rl.runtime import sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.monitor.handover import Params
    from rl.monitor.loop import Monitor

#: Seconds that a client other than the first gets to take what is queued for it.
PATIENCE = 5.0


class Ending:
    """What the steps share."""

    __slots__ = ("erase", "monitor", "oom_killed", "params", "volumes")

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.params = monitor.params
        self.oom_killed = False
        self.erase: list[str] = []  # trash to remove at the very end
        self.volumes: list[str] = []  # that went with the container

    def drain(self) -> None:
        """Everything the container wrote goes to its log and its clients."""
        self.monitor.drain()

    def ask_for_oom(self) -> None:
        """Whether the kernel killed anything in the container for lack of memory (cgroup v2, memory.events)."""
        for path in self.params["oom_events"]:
            for line in _read(path).splitlines():
                word, _, count = line.partition(b" ")
                if word == b"oom_kill" and int(count) > 0:
                    self.oom_killed = True

    def kill_strays(self) -> None:
        """Orphans of the container are our children now: they end with it, and so do exec sessions."""
        sessions.end_all(self.params["run_dir"])
        helpers = set(self.params["helpers"])
        for _ in range(100):
            children = {int(pid) for pid in _read(f"/proc/self/task/{posix.getpid()}/children").split()} - helpers
            if not children:
                return
            _kill(children)
            _reap(0.01)

    def end_helpers(self) -> None:
        """Network and file system helpers; a FUSE mount is taken down first, so that nothing written is lost."""
        mounts = mounts_below(self.params["container_dir"])
        for path, kind in mounts:
            if kind.startswith("fuse"):
                unmount(path)
        helpers = set(self.params["helpers"])
        _kill(helpers)
        if not self.params.get("wait_for_helpers", True):
            return  # the kernel takes 20 ms to take a tap device down, and nothing that anybody needs hangs on it
        deadline = time.monotonic() + 2
        while helpers and time.monotonic() < deadline:
            helpers = {pid for pid in helpers if _exists(pid)}
            _reap(0.002)

    def remove_cgroup(self) -> None:
        """The cgroup with what the container made below it."""
        path = self.params.get("cgroup", "")
        if not path:
            return
        deadline = time.monotonic() + 1
        while not _remove_cgroup(path) and time.monotonic() < deadline:
            try:
                _overwrite(f"{path}/cgroup.kill", b"1")
            except OSError:
                pass
            _reap(0.005)

    def restart(self) -> None:
        """Run it again, if it is to; then this process becomes another, or comes back when somebody stopped it."""
        self.monitor.hear()  # `rl stop` may have said so just now
        if not self.params.get("after") and self.params.get("restart", {}).get("policy", "no") == "no":
            return
        from rl.monitor import restart

        if restart.wanted(self.params, self.monitor.status):
            restart.again(self)

    def record_restarting(self) -> None:
        """state.json while the monitor waits."""
        self._note_end()
        self.params["state"]["status"] = "restarting"
        try:
            self._write_state()
        finally:
            self._emit(("died", "cleanup"))

    def record(self) -> None:
        """The last word in state.json; with --rm the container goes into the trash instead."""
        params, state = self.params, self.params["state"]
        told = state["status"] == "restarting"  # and stopped before it ran again
        if not told:
            self._note_end()
        state["status"] = "exited"
        if params.get("stopped_by_user"):
            state["stopped_by_user"] = True
        removed = bool(params.get("remove")) and self._discard()
        try:
            if not removed:
                self._write_state()
                if params["spare_fd"] >= 0:
                    _unlink(f"{params['container_dir']}/state.spare")
        finally:
            self._emit(() if told else ("died", "cleanup"), ("remove",) if removed else ())

    def _emit(self, *statuses: tuple[str, ...]) -> None:
        """The events of the end: before anyone is told of it, so that who waits for the container finds them."""
        params = self.params
        if "events" not in params:
            return
        from rl.monitor import eventlog

        image = {"image": params.get("image", "")}
        died = {**image, "containerExitCode": str(self.monitor.status)}
        happened = [each for group in statuses for each in group]
        if self.oom_killed and "died" in happened:
            happened.insert(0, "oom")
        name, labels = params["log"].get("name", ""), params.get("labels")
        events = [
            eventlog.event("container", each, params["id"], name, died if each == "died" else image, labels)
            for each in happened
        ]
        events += [eventlog.event("volume", "remove", volume, volume) for volume in self.volumes]
        eventlog.write(params["events"], events)

    def _discard(self) -> bool:
        """Volumes and cidfile, the record that names them, the name: one killed in here leaves nothing unknown."""
        params = self.params
        target = f"{params['trash_dir']}/{params['id']}.{posix.getpid()}"
        links = []
        kept, lock = _lent(params)
        for number, path in enumerate(params.get("delete", [])):
            if path in kept:
                continue
            try:
                kind = posix.lstat(path).st_mode & 0o170000
                if kind == 0o120000:
                    links.append(path)
                elif kind == 0o040000:
                    posix.rename(path, f"{target}.{number}")
                    self.erase.append(f"{target}.{number}")
                    self.volumes.append(path.rpartition("/")[2])
                else:
                    posix.unlink(path)
            except OSError:
                continue
        try:
            posix.rename(params["container_dir"], target)
        except OSError:
            return False  # told as an exited container: `rl rm` says why
        finally:
            if lock >= 0:
                posix.close(lock)
        self.erase.append(target)
        for link in links:
            _release_name(link, params["id"])
        return True

    def _note_end(self) -> None:
        state = self.params["state"]
        ns = time.time_ns()
        state["pid"] = 0
        state["exit_code"] = self.monitor.status
        state["oom_killed"] = self.oom_killed
        state["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
        state["restarts"] = self.params.get("restarts", 0)
        if self.monitor.log and self.monitor.log.lost:
            state["log_lost"] = self.monitor.log.lost

    def _write_state(self) -> None:
        state = self.params["state"]
        path = f"{self.params['container_dir']}/state.json"
        spare = f"{self.params['container_dir']}/state.spare"
        data = (dumps(state) + "\n").encode()
        try:
            write_atomic(path, data, sync=False)
        except OSError:  # the disk is full: this was reserved when the container started
            fd = self.params["spare_fd"]
            if fd >= 0:
                posix.pwrite(fd, data, 0)
                posix.ftruncate(fd, len(data))
                posix.rename(spare, path)
                posix.close(fd)
                self.params["spare_fd"] = -1
                return
            _overwrite(path, data, truncate=True)  # its block is there

    def leave(self) -> None:
        """Nobody finds a monitor any more; who starts the container again gets the lock."""
        for name in ("attach", "lock"):
            try:
                posix.unlink(f"{self.params['run_dir']}/{name}")
            except OSError:
                continue
        try:
            posix.rmdir(self.params["run_dir"])
        except OSError:
            pass
        posix.close(self.params["lock_fd"])

    def tell(self) -> None:
        """The exit packet to all clients, after what is queued for them; the first one may take its time."""
        monitor = self.monitor
        state = self.params["state"]
        end = {"exit_code": state["exit_code"], "oom_killed": state["oom_killed"], "error": state.get("error", "")}
        packet = b"\x04" + dumps(end).encode()
        clients = monitor.clients + [Client(fd) for fd in monitor.accept()]
        waiting = []
        for client in clients:
            while client.receive():
                pass  # closing with unread packets would reset the connection
            if client.send(packet) and client.queue:
                waiting.append(client)
            else:
                client.close()
        self._flush(waiting)

    def _flush(self, waiting: list[Client]) -> None:
        deadline = time.monotonic() + PATIENCE
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                waiting = [client for client in waiting if client.first]
            poll = select.poll()
            for client in waiting:
                poll.register(client.fd, select.POLLOUT)
            if waiting:
                poll.poll(left * 1000 if left > 0 else None)
            for client in tuple(waiting):
                if not client.flush() or not client.queue:
                    client.close()
                    waiting.remove(client)

    def erase_trash(self) -> None:
        """As root of the user namespace, for the files belong to subordinate ids."""
        if not self.erase:
            return
        from rl.monitor.erase import erase_tree

        for path in self.erase:
            for mounted, _ in reversed(mounts_below(path)):
                unmount(mounted)
            erase_tree(path)


STEPS: tuple[Callable[[Ending], None], ...] = (
    Ending.drain,
    Ending.ask_for_oom,
    Ending.kill_strays,
    Ending.end_helpers,
    Ending.remove_cgroup,
    Ending.restart,
    Ending.record,
    Ending.leave,
    Ending.tell,
    Ending.erase_trash,
)


def finish(monitor: Monitor, first: Callable[[Ending], None] = Ending.drain) -> None:
    """Do all of it, or what is left from step *first* on."""
    ending = Ending(monitor)
    for step in STEPS[STEPS.index(first) :]:
        try:
            step(ending)
        except Exception:  # whatever it is, the next steps matter more
            continue


def _release_name(link: str, container_id: str) -> None:
    """As rl.engine.naming.release_name: whoever removes a name holds the directory's lock."""
    import fcntl

    try:
        names = posix.open(link.rpartition("/")[0], posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            fcntl.flock(names, fcntl.LOCK_EX)
            if posix.readlink(link).endswith("/" + container_id):
                posix.unlink(link)
        finally:
            posix.close(names)
    except OSError:
        pass  # another container has it by now, or a read-only file system


def _lent(params: Params) -> tuple[list[str], int]:
    """(the anonymous volumes that stay, for other containers use them; the records lock, held, or -1).

    As rl.engine.volume.rm.forget_anonymous. The lock is taken wherever there are volumes: who lends one meanwhile
    holds it shared (rl.engine.recording.record).
    """
    volumes = [path for path in params.get("delete", []) if "/volumes/" in path]
    if not volumes:
        return [], -1
    import fcntl

    containers, _, own = params["container_dir"].rpartition("/")
    data = containers.rpartition("/")[0]
    try:
        lock = posix.open(f"{data}/images/.lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    except OSError:
        return [], -1
    fcntl.flock(lock, fcntl.LOCK_EX)
    lent = [path for path in volumes if _exists_file(f"{path}/shared")]
    if not lent:
        return [], lock
    kept: set[str] = set()
    for other in posix.listdir(containers):
        record = _read(f"{containers}/{other}/config.json") if other != own else b""
        kept.update(path for path in lent if path.rpartition("/")[2].encode() in record)
    return list(kept), lock


def _exists_file(path: str) -> bool:
    try:
        posix.lstat(path)
    except OSError:
        return False
    return True


def _read(path: str) -> bytes:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        while part := posix.read(fd, 65536):
            parts.append(part)
    except OSError:
        pass
    finally:
        posix.close(fd)
    return b"".join(parts)


def _overwrite(path: str, data: bytes, truncate: bool = False) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.pwrite(fd, data, 0)
        if truncate:
            posix.ftruncate(fd, len(data))
    finally:
        posix.close(fd)


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except OSError:
        pass


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            posix.kill(pid, 9)
        except OSError:
            continue


def _exists(pid: int) -> bool:
    """Whether *pid* still runs; our own children until they are reaped."""
    try:
        posix.kill(pid, 0)
    except OSError:
        return False
    return True


def _reap(seconds: float) -> None:
    """Take the status of children that ended; wait *seconds* if none has."""
    try:
        if posix.waitpid(-1, posix.WNOHANG)[0]:
            return
    except ChildProcessError:
        pass
    time.sleep(seconds)


def _remove_cgroup(path: str) -> bool:
    """Whether the cgroup is gone; cgroups below it go first."""
    try:
        posix.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    try:
        with posix.scandir(path) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for child in below:
            _remove_cgroup(child)
        posix.rmdir(path)
        return True
    except OSError:
        return False


def mounts_below(directory: str) -> list[tuple[str, str]]:
    """(mount point, type) of the mounts in *directory*, in mount order."""
    from rl.kernel import proc

    try:
        mounts = proc.mounts()
    except OSError:
        return []
    return [mounted for mounted in mounts if mounted[0].startswith(directory + "/")]


def unmount(path: str) -> None:
    from rl.kernel import mount

    try:
        mount.umount(path)
    except OSError:
        try:
            mount.umount(path, mount.MNT_DETACH)
        except OSError:
            pass
