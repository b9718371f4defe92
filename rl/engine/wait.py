"""rl wait: until containers have ended, or are in another state that was asked for; told, not polled."""

from __future__ import annotations

import os
import select

from rl.engine import containers
from rl.errors import CorruptRecordError, NoSuchContainerError, RlError, UsageError
from rl.kernel import inotify
from rl.monitor.client import ExitWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.engine.context import Engine

_CONDITIONS = {
    "configured": "created", "created": "created", "initialized": "initialized", "running": "running",
    "paused": "paused", "stopping": "stopping", "stopped": "exited", "exited": "exited", "removing": "removing",
    "unknown": "unknown", "healthy": "healthy", "unhealthy": "unhealthy",
}  # fmt: skip
_HEALTH = ("healthy", "unhealthy")
_EVENTS = inotify.IN_MOVED_TO | inotify.IN_MOVE_SELF | inotify.IN_DELETE_SELF


def wait(
    engine: Engine, names: list[str], *, condition: list[str] | None = None, ignore: bool = False, first: bool = False,
    interval: float = 0,
) -> list[int]:  # fmt: skip
    """The exit code of each of *names*, once it is in one of the states *condition* (default: it has ended).

    -1 for a container that is in another state than exited, and with *ignore* for one that does not exist. Without
    *condition*, one that was never started is 0 at once, as in Podman. *first*: only the code of the first of them that
    gets there. *interval*: look at least every so many seconds, for file systems that tell of no changes (NFS).
    Raises NoSuchContainerError, UsageError.
    """
    wanted = set()
    for word in condition or ["stopped"]:
        if word.lower() not in _CONDITIONS:
            what = f"unknown container state: {word}: invalid argument"
            raise UsageError(what, f"use one of {', '.join(_CONDITIONS)}")
        wanted.add(_CONDITIONS[word.lower()])
    # All are found and watched before the first is waited for: a wrong name is told at once, and one with --rm may be
    # gone, with its exit code, when it is its turn.
    waiting: list[_Waiting | None] = []
    try:
        for name in names:
            try:
                waiting.append(_Waiting(engine, containers.find(engine.paths, name), wanted, not condition))
            except NoSuchContainerError:
                if not ignore:
                    raise
                waiting.append(None)
        if first:
            return [-1 if None in waiting else _until([each for each in waiting if each], interval)]
        return [_until([each], interval) if each else -1 for each in waiting]
    finally:
        for each in waiting:
            if each:
                each.close()


def _until(waiting: Sequence[_Waiting], interval: float) -> int:
    """Wait for the first of them; its result."""
    while True:
        poll = select.poll()
        for each in waiting:
            code = each.result()
            if code is not None:
                return code
            for fd in each.descriptors():
                poll.register(fd, select.POLLIN)
        poll.poll(interval * 1000 if interval else None)


class _Waiting:
    """One container that is waited for."""

    __slots__ = ("_changes", "_engine", "_id", "_never_ran", "_wanted", "_watch")

    def __init__(self, engine: Engine, container_id: str, wanted: set[str], never_ran: bool) -> None:
        self._engine = engine
        self._id = container_id
        self._wanted = wanted
        self._never_ran = never_ran
        self._changes = _changes(engine, container_id)
        self._watch = ExitWatch(engine.paths.container_run(container_id))

    def descriptors(self) -> list[int]:
        """Readable when :meth:`result` may have another answer."""
        return [self._changes, self._watch.fd] if self._watch.fd >= 0 else [self._changes]

    def result(self) -> int | None:
        """The exit code, or -1, if it is in a state that is waited for."""
        ended = self._watch.fd >= 0 and _readable(self._watch.fd) and self._watch.ended()
        # Its end alone is no news when another state is waited for: the record has to say so.
        if ended and self._watch.info is not None and "exited" in self._wanted:
            return int(self._watch.info["exit_code"])
        inotify.drain(self._changes)
        try:
            state = containers.read_state(self._engine.paths, self._id)
        except NoSuchContainerError:
            return -1 if "removing" in self._wanted else _last_word(self._watch, self._id)
        except CorruptRecordError:
            if "unknown" not in self._wanted:
                raise
            return -1
        status = state.get("status", "")
        if status == "exited" and "stopping" in self._wanted:
            return -1  # it was over before anybody could see it
        if status in self._wanted:
            return int(state.get("exit_code", 0)) if status == "exited" else -1
        if not self._wanted.isdisjoint(_HEALTH) and self._is_as_well(status):
            return -1
        if self._never_ran and status == "created" and self._watch.fd < 0:
            return 0  # nobody starts it, so nothing would end the wait
        if self._watch.fd < 0 and status in containers.MONITORED:
            self._watch = ExitWatch(self._engine.paths.container_run(self._id))
        return None

    def _is_as_well(self, status: str) -> bool:
        from rl.engine.healthcheck import wait_health

        return wait_health(self._engine.paths, self._id, status, self._wanted)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._changes)
        self._watch.close()


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _changes(engine: Engine, container_id: str) -> int:
    """A descriptor that is readable when the container's record changes."""
    directory = engine.paths.container(container_id)
    try:
        return inotify.watch(directory, _EVENTS)
    except FileNotFoundError:
        raise NoSuchContainerError(f"no such container {container_id[:12]}") from None
    except OSError as error:
        raise RlError(
            f"watch {directory}: {error.strerror}",
            "raise the limits: sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
        ) from None


def _last_word(watch: ExitWatch, container_id: str) -> int:
    """With --rm only its monitor can tell now."""
    poll = select.poll()
    while watch.fd >= 0:
        poll.register(watch.fd, select.POLLIN)
        poll.poll()
        if watch.ended():
            break
    if watch.info is not None:
        return int(watch.info["exit_code"])
    raise NoSuchContainerError(f"container {container_id[:12]} was removed")
