"""`rl own`: files that containers left to subordinate ids become the caller's again.

A child in the shared user namespace does it, where those ids are mapped: there 0 is the caller, 1… are the
subordinate ids. What no id there stands for belongs to somebody else and is refused, file by file.
"""

from __future__ import annotations

import errno
import os

from rl.config.jsonio import dumps, loads
from rl.errors import ConflictError, NotFoundError, RlError, UnsupportedError, from_wire, to_wire
from rl.runtime import access, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rl.engine.context import Engine

    #: path, former uid and gid (on the host) of each file; or how many were looked at so far
    Change = Callable[[str, int, int], None]
    Progress = Callable[[int], None]

_EVERY = 1 << 13  # files between two reports


class Result:
    """How many files were changed (or would be), and what could not be."""

    __slots__ = ("changed", "errors", "looked_at")

    def __init__(self) -> None:
        self.changed = 0
        self.looked_at = 0
        self.errors: list[RlError] = []


def own(
    engine: Engine, names: Sequence[str], *, dry_run: bool = False, cross_mounts: bool = False,
    changed: Change | None = None, progress: Progress | None = None, failed: Callable[[RlError], None] | None = None,
) -> Result:
    """Give *names* and all below them that subordinate ids own to the caller. Links are changed, never followed.

    *failed* is told of each file that could not be changed; the walk goes on. Raises UnsupportedError for real root,
    ConflictError for rl's own storage.
    """
    if userns.wanted_maps().mode == "root":
        raise UnsupportedError("own: root has no subordinate ids to take files back from", "use chown -R")
    result = Result()
    for name in names:
        _check(engine, name)
    skip = _storage(engine)
    for report in _in_namespace(engine, list(names), dry_run, cross_mounts, changed is not None, skip):
        if "error" in report:
            error = from_wire(report["error"])
            result.errors.append(error)
            if failed:
                failed(error)
        elif "changed" in report:
            result.changed, result.looked_at = report["changed"], report["looked_at"]
            if progress:
                progress(result.looked_at)
        elif changed:
            changed(report["path"], report["uid"], report["gid"])
    return result


def _check(engine: Engine, name: str) -> None:
    """Refuse what holds layers and containers: with one owner for all, no image there would work any more."""
    real = os.path.realpath(name)
    data = os.path.realpath(engine.paths.data)
    if f"{real}/".startswith(f"{data}/") and not f"{real}/".startswith(f"{data}/volumes/"):
        raise ConflictError(
            f"own {name}: it is storage of rl, where images and containers need their owners",
            "`rl rm` and `rl rmi` remove what is in it; below volumes/ there may be files to take back",
        )


def _storage(engine: Engine) -> list[list[int]]:
    """[device, inode] of the directories to leave alone: this engine's storage and Podman's."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.environ.get("HOME", "/nonexistent"), ".local/share")
    found = []
    for path in (engine.paths.data, f"{base}/rl", f"{base}/containers/storage"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append([status.st_dev, status.st_ino])
    return found


def _in_namespace(engine: Engine, *arguments: Any) -> Any:
    """The reports of :func:`_work`, as they come."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(read_end)
        code = 1
        try:
            with open(write_end, "w", encoding="utf-8") as pipe:
                try:
                    userns.enter(engine.paths.run)
                    _Work(pipe.write, *arguments).run()
                    code = 0
                except Exception as error:
                    pipe.write(dumps({"error": to_wire(error)}) + "\n")
        finally:
            os._exit(code)
    os.close(write_end)
    try:
        with open(read_end, encoding="utf-8") as pipe:
            for line in pipe:
                yield loads(line)
    except BaseException:
        os.kill(child, 15)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        raise RlError(f"own: the process that changes owners was ended by signal {-status}", "call it again")


class _Work:
    """The walk, in the child."""

    def __init__(
        self, write: Callable[[str], object], names: list[str], dry_run: bool, cross_mounts: bool, each: bool,
        skip: list[list[int]],
    ) -> None:
        self.write = write
        self.names = names
        self.dry_run = dry_run
        self.cross_mounts = cross_mounts
        self.each = each
        self.skip = frozenset((device, inode) for device, inode in skip)
        self.changed = self.looked_at = 0
        self.base = ""

    def run(self) -> None:
        """All names, then the sums."""
        from rl.storage import ownership

        walk = ownership.Walk(self._choose, self._failed, cross_mounts=self.cross_mounts, skip=self.skip)
        for name in self.names:
            self.base = name
            try:
                start = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                self._say(error=to_wire(_cannot_open(name, error)))
                continue
            try:
                walk.tree(start)
            finally:
                os.close(start)
        self._say(changed=self.changed, looked_at=self.looked_at)

    def _say(self, **report: Any) -> None:
        self.write(dumps(report) + "\n")

    def _choose(self, path: str, status: os.stat_result) -> tuple[int, int] | None:
        self.looked_at += 1
        if not self.looked_at % _EVERY:
            self._say(changed=self.changed, looked_at=self.looked_at)
        uid = _new(status.st_uid, "uid")
        gid = _new(status.st_gid, "gid")
        if uid < 0 and access.is_unknown(status.st_uid):
            raise PermissionError(errno.EPERM, "it belongs to another user of the host")
        if uid < 0 and gid < 0:
            return None
        self.changed += 1
        if self.each:
            before = access.outside(status.st_uid), access.outside(status.st_gid, "gid")
            self._say(path=self._name(path), uid=before[0], gid=before[1])
        return None if self.dry_run else (uid, gid)

    def _failed(self, path: str, error: OSError) -> None:
        name = self._name(path)
        if error.errno in (errno.EPERM, errno.EACCES):
            said = UnsupportedError(
                f"own {name}: it belongs to another user of the host, neither to you nor to your subordinate ids",
                "only its owner or root can give it away",
            )
        else:
            said = RlError(f"own {name}: {error.strerror}")  # type: ignore[assignment]
        self._say(error=to_wire(said))

    def _name(self, path: str) -> str:
        return os.path.join(self.base, path) if path else self.base


def _new(number: int, kind: str) -> int:
    """0 (the caller) for a subordinate id, -1 (as it is) for any other."""
    return 0 if number > 0 and access.is_mapped(number, kind) else -1


def _cannot_open(name: str, error: OSError) -> RlError:
    if error.errno == errno.ENOENT:
        return NotFoundError(f"own {name}: no such file or directory")
    if error.errno == errno.EACCES:
        reason, hint = access.explain(name)
        return UnsupportedError(f"own {name}: permission denied" + (f": {reason}" if reason else ""), hint)
    return RlError(f"own {name}: {error.strerror}")
