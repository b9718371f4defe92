"""The state directory of `rl-runtime`: one directory per container, plain files.

```
ROOT/<id>/lock         held (flock) by who makes or removes the container
ROOT/<id>/config.json  the specification it was made from
ROOT/<id>/state.json   pid, start time, boot, bundle; complete or not there
ROOT/<id>/start        socket that the container's init listens on while it waits for start
ROOT/<id>/cgroup       path of its cgroup, from before there is a process in it
```

The status is derived, not stored: no state.json = creating, no such process = stopped, a start socket = created, a
frozen cgroup = paused, else running. A process is known by pid, start time and boot, so a later one of the same
number is not taken for it. Source: OCI runtime specification, runtime.md "State".
"""

from __future__ import annotations

import errno
import fcntl
import posix as os  # as rl.kernel.proc: this is most of what `start` and `delete` are
import time

from rl.config.jsonio import dumps, read_json, write_json
from rl.errors import ConflictError, CorruptRecordError, NotFoundError, RlError, StateError, UsageError
from rl.kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
_ID_LENGTH = 255  # NAME_MAX: it names a directory


def check_id(container_id: str) -> None:
    """Raise UsageError unless *container_id* can name a container: ASCII letters, digits, ``_ + - .``, as in runc."""
    if not container_id:
        raise UsageError("the container id is empty", "give one: rl-runtime run ID")
    shown = container_id if len(container_id) <= 64 else container_id[:61] + "..."
    if not _ID_CHARACTERS.issuperset(container_id) or container_id in (".", ".."):
        raise UsageError(f"container id {dumps(shown)} is not valid", "use letters, digits and _ + - . only")
    if len(container_id) > _ID_LENGTH:
        raise UsageError(
            f"container id {shown} has {len(container_id)} characters", f"it may have {_ID_LENGTH}"
        )


def default_root(environ: dict[str, str]) -> str:
    """``$XDG_RUNTIME_DIR/rl-runtime`` for who is not the host's root, else /run/rl-runtime."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    ranges = proc.id_map("uid")
    host_root = os.geteuid() == 0 and ranges[0][:2] == (0, 0) and ranges[0][2] > 1 << 31
    return f"{base}/rl-runtime" if base and not host_root else "/run/rl-runtime"


class Record:
    """One container on disk, locked by whoever changes it."""

    __slots__ = ("directory", "id", "lock", "state")

    def __init__(self, directory: str, container_id: str, state: dict[str, Any]) -> None:
        self.directory = directory
        self.id = container_id
        self.state = state
        self.lock = -1

    @property
    def start_path(self) -> str:
        """The socket that the waiting init listens on."""
        return f"{self.directory}/start"

    @property
    def pid(self) -> int:
        """Init's pid while it lives, else 0."""
        pid: int = self.state.get("pid", 0)
        alive = (
            pid > 0
            and self.state.get("boot") == proc.boot_id()
            and proc.start_time(pid) == self.state.get("start_time")
            and not proc.is_zombie(pid)
        )
        return pid if alive else 0

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if not self.state:
            return "creating"
        if not self.pid:
            return "stopped"
        if _mode(self.start_path):
            return "created"
        path = self.cgroup
        return "paused" if path and _is_frozen(path) else "running"

    @property
    def cgroup(self) -> str:
        """Its cgroup's directory, "" if it has none; known before there is a record, for who has to clean up."""
        try:
            with open(f"{self.directory}/cgroup", encoding="utf-8") as file:
                return file.read()
        except OSError:
            return ""

    def note_cgroup(self, path: str) -> None:
        """Remember the cgroup."""
        if path:
            with open(f"{self.directory}/cgroup", "w", encoding="utf-8") as file:
                file.write(path)

    def spec(self) -> dict[str, Any]:
        """The specification it was made from. Raises CorruptRecordError."""
        path = f"{self.directory}/config.json"
        try:
            document: dict[str, Any] = read_json(path)
        except (OSError, ValueError) as error:
            raise CorruptRecordError(f"read {path}: {error}", f"rl-runtime delete --force {self.id}") from None
        return document

    def write(self) -> None:
        """Write state.json; needs the lock."""
        write_json(f"{self.directory}/state.json", self.state, sync=False)

    def document(self) -> dict[str, Any]:
        """The state as the specification and runc print it."""
        status = self.status
        return {
            "ociVersion": self.state.get("ociVersion", "1.2.0"), "id": self.id, "pid": self.pid, "status": status,
            "bundle": self.state.get("bundle", ""), "rootfs": self.state.get("rootfs", ""),
            "created": self.state.get("created", ""), "owner": _user_name(self.state.get("owner", 0)),
            **({"annotations": self.state["annotations"]} if self.state.get("annotations") else {}),
        }

    def remove(self) -> None:
        """Remove the directory; the lock goes with it."""
        try:
            _remove_tree(self.directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RlError(f"remove {self.directory}: {error.strerror}") from None
        self.release()

    def release(self) -> None:
        """Give the lock back."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class Store:
    """All containers below one ``--root``."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def _directory(self, container_id: str) -> str:
        check_id(container_id)  # it becomes part of a path
        return f"{self.root}/{container_id}"

    def reserve(self, container_id: str) -> Record:
        """Take the id for a new container; its lock is held. Raises ConflictError when it is taken."""
        record = Record(self._directory(container_id), container_id, {})
        try:
            from os import makedirs

            makedirs(self.root, 0o711, exist_ok=True)
        except OSError as error:
            raise RlError(f"create {self.root}: {error.strerror}", "choose a directory of yours with --root") from None
        for _ in range(100):
            try:
                os.mkdir(record.directory, 0o711)
            except FileExistsError:
                if self._is_taken(record):
                    raise ConflictError(
                        f"container with id {container_id} exists already", f"rl-runtime delete {container_id}"
                    ) from None
                continue
            except OSError as error:
                raise RlError(f"create {record.directory}: {error.strerror}") from None
            if self._lock(record):
                return record
        raise ConflictError(f"container id {container_id}: others are taking and giving it up all the time")

    def _is_taken(self, record: Record) -> bool:
        """Whether the directory is of a container; one that a killed `create` left behind is removed."""
        if _mode(f"{record.directory}/state.json"):
            return True
        age = time.time() - _modified(record.directory)
        if not self._lock(record):
            return bool(_mode(record.directory))
        try:
            if not _mode(f"{record.directory}/config.json") and age < 1:
                return True  # its maker is between mkdir and lock
            if record.cgroup:
                from rl.runtime.program import groups

                groups.remove(record.cgroup)
            record.remove()
        finally:
            record.release()
        return False

    def _lock(self, record: Record, wait: bool = False) -> bool:
        try:
            fd = os.open(f"{record.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours, there = os.fstat(fd), os.stat(f"{record.directory}/lock")
            same = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            os.close(fd)
            return False
        record.lock = fd
        return True

    def load(self, container_id: str) -> Record:
        """The container as it is. Raises NotFoundError, CorruptRecordError."""
        directory = self._directory(container_id)
        path = f"{directory}/state.json"
        try:
            state = read_json(path)
        except FileNotFoundError:
            if _mode(directory):
                return Record(directory, container_id, {})
            raise NotFoundError(
                f"container {container_id} does not exist", f"see: rl-runtime --root {self.root} list"
            ) from None
        except (OSError, ValueError) as error:
            raise CorruptRecordError(f"read {path}: {error}", f"rl-runtime delete --force {container_id}") from None
        return Record(directory, container_id, state)

    def locked(self, container_id: str) -> Record:
        """:meth:`load`, with the lock held: waits for who changes the container now."""
        for _ in range(100):
            record = self.load(container_id)
            if self._lock(record, wait=True):
                try:
                    fresh = self.load(container_id)
                except RlError:
                    record.release()
                    raise
                record.state = fresh.state
                return record
        raise StateError(f"container {container_id}: it is made and removed all the time")

    def unreadable(self, container_id: str) -> Record:
        """A container whose record is not there or damaged, locked if its directory is there (``delete --force``)."""
        record = Record(self._directory(container_id), container_id, {})
        self._lock(record, wait=True)
        return record

    def ids(self) -> list[str]:
        """All ids, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise RlError(f"read {self.root}: {error.strerror}") from None


def _user_name(uid: int) -> str:
    """The user's name, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_frozen(cgroup: str) -> bool:
    try:
        with open(f"{cgroup}/cgroup.events", encoding="utf-8") as file:
            return "frozen 1\n" in file.read()
    except OSError:
        return False


def _mode(path: str) -> int:
    """The type and mode of what is at *path*; 0 where nothing is."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _remove_tree(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def now() -> str:
    """RFC 3339 with nanoseconds, UTC."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
