"""rl stop: ask containers to end, all at once, and see to it that they do.

The container's own stop signal first, SIGKILL when its time is over. A container counts as stopped when its monitor has
cleaned up after it, which the monitor tells; nothing is polled.
"""

from __future__ import annotations

import os
import select
import time as clock

from rl.config.signals import signal_name
from rl.engine import containers, events, selection, signalling
from rl.errors import NoSuchContainerError, RlError, StateError
from rl.monitor.client import ExitWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: Seconds a process may survive SIGKILL (writing to a slow disk, say) and its clean-up may take.
_PATIENCE = 30.0
_FOREVER = float("inf")


class _PausedError(StateError):
    """It is frozen, and would not hear its stop signal."""


class _Stopping:
    """One container on its way down."""

    __slots__ = ("config", "deadline", "killed", "name", "pid", "pidfd", "signal", "timeout", "watch")

    def __init__(self, engine: Engine, name: str, container_id: str, time: int | None, force: bool) -> None:
        config = containers.read_config(engine.paths, container_id)
        self.config = config
        self.name = config.get("name") or name
        # Connected before the signal: the container cannot end unseen in between.
        self.watch = ExitWatch(engine.paths.container_run(container_id))
        state = containers.read_state(engine.paths, container_id)
        paused = state.get("status") == "paused"
        if paused and not force:
            self.watch.close()
            raise _PausedError(
                f"can only stop created or running containers. {container_id} is in state paused: "
                "container state improper",
                f"rl unpause {self.name}, or rl kill {self.name}",
            )
        running = state.get("status") in containers.MONITORED
        self.pid = state.get("pid", 0) if running else 0
        self.pidfd = signalling.open_init(state) if running else -1
        if not running:
            self.watch.close()
        self.signal = config.get("stop_signal") or 15
        timeout = config.get("stop_timeout", 10) if time is None else time
        self.timeout = _FOREVER if timeout < 0 else float(timeout)
        if paused or state.get("status") == "initialized":
            self.timeout = 0.0  # what is frozen, or waits in the runtime's own code, takes no other signal than SIGKILL
        self.killed = False
        self.deadline = _FOREVER

    def begin(self) -> None:
        """Send the stop signal; the monitor is told first, lest it starts the container again."""
        time = None if self.timeout == _FOREVER else self.timeout
        self.watch.tell_signal(self.signal, self.pid, stop=True, time=time)
        if self.timeout <= 0:
            self.kill()
            return
        self.deadline = clock.monotonic() + self.timeout
        signalling.send(self.pidfd, self.signal, self.name)

    def begin_again(self, paths: Paths) -> None:
        """It was started again while we waited: a `rl restart` came in between."""
        self.close_process()
        state = containers.read_state(paths, self.config["id"])
        self.pid, self.pidfd = state.get("pid", 0), signalling.open_init(state)
        self.watch.started, self.killed = 0, False
        self.begin()

    def kill(self) -> None:
        """Its time is over."""
        if self.killed:
            raise StateError(
                f"stop container {self.name}: it is still there {_PATIENCE:.0f} s after SIGKILL",
                "a process that waits for a device or a network file system ends when that answers; see `dmesg`",
            )
        self.killed = True
        self.deadline = clock.monotonic() + _PATIENCE
        signalling.send(self.pidfd, 9, self.name)

    def survived(self) -> str:
        """Why it took so long: told when the stop signal did not do."""
        what = f"{signal_name(self.signal)} did not end container {self.name}"
        return f"{what} in {self.timeout:.0f} seconds, it is killed"

    def close(self) -> None:
        self.watch.close()
        self.close_process()

    def close_process(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def stop(
    engine: Engine, names: list[str], *, time: int | None = None, all: bool = False, ignore: bool = False,
    force: bool = False,
) -> list[tuple[str, RlError | None]]:
    """Stop each of *names*; (name as given, error or None) for each, once all have ended.

    *time*: seconds before SIGKILL instead of the container's own (0: at once, negative: never). *all*: every
    running container. *ignore*: a missing container is no error. One that does not run is stopped already; a paused one
    cannot be, but is killed with *force*.
    """
    if all:
        names = selection.monitored(engine.paths)
    results: dict[int, RlError | None] = {}
    going: dict[int, _Stopping] = {}
    for index, name in enumerate(names):
        try:
            stopping = _Stopping(engine, name, containers.find(engine.paths, name), time, force)
            if stopping.watch.fd >= 0:
                going[index] = stopping
                stopping.begin()
            else:
                results[index] = None
                stopping.close()
        except NoSuchContainerError as error:
            if not ignore and not all:
                results[index] = error
        except _PausedError as error:
            if not all:
                results[index] = error
        except RlError as error:
            results[index] = error
            if index in going:
                going.pop(index).close()
    try:
        _wait(engine, going, results)
    finally:
        for stopping in going.values():
            stopping.close()
    return [(names[index], results[index]) for index in sorted(results)]


def _wait(engine: Engine, going: dict[int, _Stopping], results: dict[int, RlError | None]) -> None:
    """Until all of *going* have ended or failed; each is moved to *results*."""
    poll = select.poll()
    by_fd = {stopping.watch.fd: index for index, stopping in going.items()}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    while going:
        now = clock.monotonic()
        first = min(stopping.deadline for stopping in going.values())
        for fd, _ in poll.poll(None if first == _FOREVER else max(0.0, first - now) * 1000 + 1):
            index = by_fd[fd]
            if going[index].watch.ended():
                poll.unregister(fd)
                events.emit_container(engine.paths, going[index].config, "stop")
                going.pop(index).close()
                results[index] = None
        now = clock.monotonic()
        for index, stopping in tuple(going.items()):
            try:
                if stopping.watch.started not in (0, stopping.pid):
                    stopping.begin_again(engine.paths)
                elif now >= stopping.deadline:
                    stopping.kill()
                    engine.warn(stopping.survived())
            except RlError as error:
                poll.unregister(stopping.watch.fd)
                going.pop(index).close()
                results[index] = error
