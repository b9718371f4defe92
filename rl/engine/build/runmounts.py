"""``RUN --mount``: its grammar, and what each kind is mounted from.

Caches live at ``$DATA/build/caches/<hash of the id>/``: ``data``, and ``lock``, which whoever uses one holds. Secrets
are in memory only (a tmpfs of the worker's own mount namespace), never in a snapshot, a cache key or a log.

Called by rl.engine.build.steps (:func:`parse`) and rl.engine.build.running (:class:`Mounts`). Source: Dockerfile
reference, "RUN --mount".
"""

from __future__ import annotations

import difflib
import fcntl
import os
import stat
from hashlib import sha256

from rl.errors import NotFoundError, RlError, UnsupportedError, UsageError
from rl.kernel import mount as m
from rl.runtime import rootpath
from rl.storage import driver as storage
from rl.storage.treecopy import copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, MountSpec
    from rl.config.paths import Paths

KINDS: dict[str, tuple[str, ...]] = {
    "bind": ("target", "source", "from", "readwrite", "readonly"),
    "cache": ("target", "id", "source", "from", "readonly", "readwrite", "sharing", "mode", "uid", "gid"),
    "tmpfs": ("target", "size"),
    "secret": ("target", "id", "required", "mode", "uid", "gid", "env"),
    "ssh": ("target", "id", "required", "mode", "uid", "gid"),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "rw": "readwrite", "ro": "readonly"}
_SWITCHES = ("readwrite", "readonly", "required")
_SHARING = ("shared", "private", "locked")


class RunMount:
    """One ``--mount``. ``source_root``: the directory on this host that ``from`` names (the context without it)."""

    __slots__ = ("env", "gid", "id", "kind", "mode", "origin", "readonly", "required", "sharing", "size", "source",
                 "source_root", "target", "uid")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.target = ""
        self.source = ""
        self.origin = ""  # from=
        self.source_root = ""
        self.readonly = kind == "bind"
        self.id = ""
        self.sharing = "shared"
        self.mode = -1
        self.uid = self.gid = 0
        self.size = -1
        self.required = False
        self.env = ""

    def words(self) -> list[str]:
        """What counts for the cache: all but the contents of secrets and caches."""
        return [self.kind, self.target, self.source, self.origin, str(self.readonly), self.id, self.sharing,
                str(self.mode), f"{self.uid}:{self.gid}", str(self.size), self.env]


def parse(text: str, workdir: str) -> RunMount:
    """The mount that *text* describes; *workdir*: what a relative target starts from. Raises UsageError."""
    pairs = []
    for field in text.split(","):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        pairs.append((_ALIASES.get(key, key), value, bool(equals)))
    kind = next((value for key, value, _ in pairs if key == "type"), "bind")
    if kind not in KINDS:
        raise UsageError(f"--mount: unknown type {kind!r}", f"types are {', '.join(KINDS)}")
    found = RunMount(kind)
    for key, value, given in pairs:
        if key != "type":
            _set(found, key, value, given)
    return _completed(found, workdir)


def _set(found: RunMount, key: str, value: str, equals: bool) -> None:
    known = KINDS[found.kind]
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"{found.kind} has {', '.join(known)}"
        raise UsageError(f"--mount=type={found.kind}: unknown option {key!r}", hint)
    if key in _SWITCHES:
        on = _boolean(key, value) if equals else True
        if key == "required":
            found.required = on
        else:
            found.readonly = on if key == "readonly" else not on
        return
    if not value:
        raise UsageError(f"--mount=type={found.kind}: {key} needs a value", f"write it as {key}=…")
    if key == "sharing":
        if value not in _SHARING:
            raise UsageError(f"--mount=type=cache: sharing={value}", f"it is one of {', '.join(_SHARING)}")
        found.sharing = value
    elif key == "mode":
        found.mode = _number(key, value, 8)
    elif key in ("uid", "gid"):
        setattr(found, key, _number(key, value, 10))
    elif key == "size":
        from rl.engine.spec.values import size

        found.size = size(value, "--mount=type=tmpfs: size")
    else:
        setattr(found, "origin" if key == "from" else key, value)


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"--mount: {key}={value}: neither true nor false")
    return value.lower() in ("true", "1")


def _number(key: str, value: str, base: int) -> int:
    try:
        number = int(value, base)
    except ValueError:
        number = -1
    if number < 0 or (base == 8 and number > 0o7777) or number > 2**32 - 2:
        raise UsageError(f"--mount: {key}={value}: not a {'mode' if base == 8 else 'number of a user or group'}")
    return number


def _completed(found: RunMount, workdir: str) -> RunMount:
    if found.kind == "secret":
        found.id = found.id or os.path.basename(found.target)
        if not found.id:
            raise UsageError("--mount=type=secret: no id", "write it as --mount=type=secret,id=NAME")
        if not found.target and not found.env:
            found.target = f"/run/secrets/{found.id}"
    elif found.kind == "ssh":
        found.id = found.id or "default"
        found.target = found.target or f"/run/buildkit/ssh_agent.{found.id}"
    if found.kind in ("bind", "cache", "tmpfs") and not found.target:
        raise UsageError(f"--mount=type={found.kind}: no target", "write it as target=/PATH")
    if found.target:
        found.target = os.path.normpath(os.path.join(workdir or "/", found.target))
        if found.target == "/":
            raise UsageError("--mount: target=/ would hide all of the image")
    if found.kind == "cache":
        found.id = found.id or found.target
    return found


class Secrets:
    """``--secret`` and ``--ssh`` of a build: where each id's data comes from. ``files``, ``variables``, ``agents``."""

    __slots__ = ("agents", "files", "variables")

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.agents: dict[str, str] = {}  # id → socket of an agent

    def data(self, name: str) -> bytes | None:
        """What the secret holds; None: there is none with that id. Raises RlError."""
        if name in self.variables:
            return os.environ.get(self.variables[name], "").encode(errors="surrogateescape")
        path = self.files.get(name)
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise RlError(f"read secret {name}, {path}: {error.strerror}") from None


class Mounts:
    """The mounts of one RUN. ``entries``: for the OCI specification; ``variables``: for its environment."""

    def __init__(self, paths: Paths, directory: str, config: ContainerConfig, root: str) -> None:
        self._paths = paths
        self._directory = directory
        self._config = config
        self._root = root
        self._undo: list[Callable[[], object]] = []
        self.entries: list[dict[str, Any]] = []
        self.variables: list[str] = []

    def make(self, mounts: list[RunMount], owner: tuple[int, int], secrets: Secrets | None = None) -> None:
        """Prepare every mount; *owner* is the user of the RUN. Raises RlError, UsageError."""
        if mounts:
            os.mkdir(self._directory, 0o700)
        for number, mount in enumerate(mounts):
            place = f"{self._directory}/{number}"
            if mount.kind == "tmpfs":
                size = [f"size={mount.size}"] if mount.size >= 0 else []
                self.entries.append({"destination": mount.target, "type": "tmpfs", "source": "tmpfs",
                                     "options": ["nosuid", "nodev", "mode=1777", *size]})
            elif mount.kind == "bind":
                self._bind(mount, place)
            elif mount.kind == "cache":
                self._cache(mount, place)
            elif mount.kind == "secret":
                self._secret(mount, place, secrets or Secrets())
            else:
                self._ssh(mount, owner, secrets or Secrets())

    def close(self) -> None:
        """Undo all of it."""
        for action in reversed(self._undo):
            try:
                action()
            except (OSError, RlError):
                continue
        self._undo.clear()

    def _add(self, mount: RunMount, source: str, *options: str) -> None:
        self.entries.append({"destination": mount.target, "type": "bind", "source": source,
                             "options": ["rbind", "rprivate", "nosuid", "nodev", *options]})

    def _open_source(self, mount: RunMount) -> int:
        """What source= names below the directory of from=, resolved in there."""
        root = os.open(mount.source_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = rootpath.resolve(root, mount.source or "/", os.O_PATH)
        except OSError as error:
            where = mount.origin or "the build context"
            raise NotFoundError(
                f"--mount=type={mount.kind},source={mount.source}: {error.strerror} in {where}",
                "sources are relative to it",
            ) from None
        finally:
            os.close(root)
        self._undo.append(lambda: os.close(fd))
        return fd

    def _bind(self, mount: RunMount, place: str) -> None:
        fd = self._open_source(mount)
        source = f"/proc/{os.getpid()}/fd/{fd}"
        if mount.readonly:
            self._add(mount, source, "ro")
        elif stat.S_ISDIR(os.fstat(fd).st_mode):
            self._add(mount, self._writable(os.readlink(source), place))
        else:
            with open(source, "rb") as reader, open(place, "wb") as writer:
                while piece := reader.read(1 << 20):
                    writer.write(piece)
            self._add(mount, place)

    def _writable(self, source: str, place: str) -> str:
        """*source* with a layer above it that takes what is written, and goes."""
        upper, work, target = (f"{place}.{name}" for name in ("upper", "work", "merged"))
        for path in (upper, work, target):
            os.mkdir(path, 0o755)
        status = os.stat(source)
        os.chmod(upper, stat.S_IMODE(status.st_mode))
        os.chown(upper, status.st_uid, status.st_gid)
        driver = storage.choose(self._paths)
        mounted = driver.mount([source], upper, work, target)
        self._undo.append(lambda: driver.unmount(mounted))
        return target

    def volumes(self, mounts: list[MountSpec]) -> dict[str, str]:
        """The sources of --volume with option O: what is written there goes."""
        found = {}
        for number, spec in enumerate(mounts):
            if spec.get("overlay"):
                os.makedirs(self._directory, 0o700, exist_ok=True)
                found[spec["destination"]] = self._writable(spec["source"], f"{self._directory}/volume-{number}")
        return found

    def _cache(self, mount: RunMount, place: str) -> None:
        name = sha256(mount.id.encode(errors="surrogateescape")).hexdigest()[:32]
        for number in range(1000):
            directory = f"{self._paths.data}/build/caches/{name}" + (f"-{number}" if number else "")
            lock = self._lock(directory, mount.sharing)
            if lock >= 0:
                break
        else:
            raise RlError(f"--mount=type=cache,id={mount.id}: a thousand builds use it", "use sharing=shared")
        self._undo.append(lambda: os.close(lock))
        data = f"{directory}/data"
        if not os.path.isdir(data):
            staged = f"{data}.{os.getpid()}.new"
            os.mkdir(staged, 0o700)
            if mount.origin:
                source = self._open_source(mount)
                copy_tree(os.readlink(f"/proc/self/fd/{source}"), staged)
            if not mount.origin or mount.mode >= 0 or mount.uid or mount.gid:
                os.chown(staged, mount.uid, mount.gid)
                os.chmod(staged, mount.mode if mount.mode >= 0 else 0o755)
            try:
                os.rename(staged, data)
            except OSError:
                os.rmdir(staged)  # another build was faster
        self._add(mount, data, *(["ro"] if mount.readonly else []))

    def _lock(self, directory: str, sharing: str) -> int:
        """A descriptor that holds the cache; -1: another build has it, and it is to be private."""
        os.makedirs(directory, 0o700, exist_ok=True)
        fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if sharing == "private":
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.flock(fd, fcntl.LOCK_EX if sharing == "locked" else fcntl.LOCK_SH)
        except BlockingIOError:
            os.close(fd)
            return -1
        os.utime(fd)  # when it was used last, for rl gc
        return fd

    def _secret(self, mount: RunMount, place: str, secrets: Secrets) -> None:
        data = secrets.data(mount.id)
        if data is None:
            if mount.required:
                raise NotFoundError(
                    f"--mount=type=secret,id={mount.id}: no such secret", f"give it: --secret id={mount.id},src=FILE"
                )
            return
        if mount.env:
            self.variables.append(f"{mount.env}={data.decode(errors='surrogateescape')}")
        if not mount.target:
            return
        os.mkdir(place, 0o700)
        m.mount("tmpfs", place, "tmpfs", m.MS_NOSUID | m.MS_NODEV, "mode=0700")
        self._undo.append(lambda: m.umount(place, m.MNT_DETACH))
        fd = os.open(f"{place}/secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view):]
            os.fchown(fd, mount.uid, mount.gid)
            os.fchmod(fd, mount.mode if mount.mode >= 0 else 0o400)
        finally:
            os.close(fd)
        self._add(mount, f"{place}/secret", "ro")

    def _ssh(self, mount: RunMount, owner: tuple[int, int], secrets: Secrets) -> None:
        path = secrets.agents.get(mount.id)
        if path is None:
            if mount.required:
                raise NotFoundError(f"--mount=type=ssh,id={mount.id}: no such agent", f"give it: --ssh {mount.id}")
            return
        if owner[0] or mount.uid or mount.gid or mount.mode >= 0:
            raise UnsupportedError(
                "--mount=type=ssh: the agent's socket is the caller's, which is root in a build, and stays so",
                "use it in a RUN of root, without uid, gid and mode",
            )
        self.variables.append(f"SSH_AUTH_SOCK={mount.target}")
        self._add(mount, path)
