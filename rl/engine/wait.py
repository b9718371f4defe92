"""rl wait: until containers have ended, or are in another state that was asked for; told, not polled."""

from __future__ import annotations

import os
import select

from rl.engine import containers
from rl.errors import NoSuchContainerError, RlError, UsageError
from rl.kernel import inotify
from rl.monitor.client import ExitWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine

_CONDITIONS = {
    "configured": "created", "created": "created", "initialized": "initialized", "running": "running",
    "paused": "paused", "stopping": "stopping", "stopped": "exited", "exited": "exited", "removing": "removing",
    "healthy": "healthy", "unhealthy": "unhealthy",
}
_EVENTS = inotify.IN_MOVED_TO | inotify.IN_MOVE_SELF | inotify.IN_DELETE_SELF


def wait(engine: Engine, names: list[str], *, condition: list[str] | None = None, ignore: bool = False) -> list[int]:
    """The exit code of each of *names*, once it is in one of the states *condition* (default: it has ended).

    -1 for a container that is in another state than exited, and with *ignore* for one that does not exist. Without
    *condition*, one that was never started is 0 at once, as in Podman.
    Raises NoSuchContainerError, UsageError.
    """
    wanted = set()
    for word in condition or ["stopped"]:
        if word.lower() not in _CONDITIONS:
            raise UsageError(f"unknown condition {word!r}", f"use one of: {', '.join(_CONDITIONS)}")
        wanted.add(_CONDITIONS[word.lower()])
    # All are found and watched before the first is waited for: a wrong name is told at once, and one with --rm may be
    # gone, with its exit code, when it is its turn.
    watched: list[tuple[str, int, ExitWatch] | None] = []
    try:
        for name in names:
            try:
                container_id = containers.find(engine.paths, name)
                changes = _changes(engine, container_id)
            except NoSuchContainerError:
                if not ignore:
                    raise
                watched.append(None)
                continue
            watched.append((container_id, changes, ExitWatch(engine.paths.container_run(container_id))))
        return [_wait(engine, *entry, wanted, not condition) if entry else -1 for entry in watched]
    finally:
        for entry in watched:
            if entry:
                os.close(entry[1])
                entry[2].close()


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


def _wait(
    engine: Engine, container_id: str, changes: int, watch: ExitWatch, wanted: set[str], never_ran: bool
) -> int:
    first = watch
    try:
        while True:
            inotify.drain(changes)
            try:
                state = containers.read_state(engine.paths, container_id)
            except NoSuchContainerError:
                return _last_word(watch, container_id)  # --rm: only its monitor can tell now
            status = state.get("status", "")
            if status in wanted:
                return int(state.get("exit_code", 0)) if status == "exited" else -1
            if not wanted.isdisjoint(("healthy", "unhealthy")):
                from rl.engine import healthcheck

                if healthcheck.wait_health(engine.paths, container_id, status, wanted):
                    return -1
            if never_ran and status == "created" and watch.fd < 0:
                return 0  # nobody starts it, so nothing would end the wait
            if watch.fd < 0 and status in containers.MONITORED:
                watch = ExitWatch(engine.paths.container_run(container_id))
            poll = select.poll()
            poll.register(changes, select.POLLIN)
            if watch.fd >= 0:
                poll.register(watch.fd, select.POLLIN)
            for fd, _ in poll.poll():
                # Its end alone is no news when another state is waited for: the record has to say so.
                if fd == watch.fd and watch.ended() and watch.info is not None and "exited" in wanted:
                    return int(watch.info["exit_code"])
    finally:
        if watch is not first:
            watch.close()


def _last_word(watch: ExitWatch, container_id: str) -> int:
    poll = select.poll()
    while watch.fd >= 0:
        poll.register(watch.fd, select.POLLIN)
        poll.poll()
        if watch.ended():
            break
    if watch.info is not None:
        return int(watch.info["exit_code"])
    raise NoSuchContainerError(f"container {container_id[:12]} was removed")
