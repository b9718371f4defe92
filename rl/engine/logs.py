"""rl logs: what containers have written, across rotated files; follows by being told, not by looking again.

:func:`records` is for programs, :func:`logs` writes to descriptors as the command line needs it.
"""

from __future__ import annotations

import os
import select
import time

from rl.engine import containers
from rl.engine.times import epoch_ns, flag_ns
from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel import inotify
from rl.monitor.client import ExitWatch
from rl.monitor.logread import LogReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.monitor.logread import Record
    from rl.monitor.logread_journal import JournalReader

_EVENTS = inotify.IN_MODIFY | inotify.IN_MOVED_TO | inotify.IN_CREATE
_COLORS = (37, 31, 32, 33, 34, 35, 36)


class _Source:
    """One container's log, and what tells of its growth and its end."""

    __slots__ = ("_watched", "changes", "live", "name", "reader", "watch")

    def __init__(self, engine: Engine, name: str, tail: int, follow: bool) -> None:
        container_id = containers.find(engine.paths, name)
        config = containers.read_config(engine.paths, container_id)
        log = config.get("log", {})
        driver, path = log.get("driver", ""), log.get("path", "")
        if driver != "journald" and (driver not in ("k8s-file", "json-file") or not path):
            raise UnsupportedError(
                f"this container is using the {driver!r} log driver, cannot read logs: {name}",
                "create the container with --log-driver=k8s-file",
            )
        self.name = config["name"]
        self.watch: ExitWatch | None = None
        # Watching begins before reading: nothing falls between.
        if follow:
            self.watch = ExitWatch(engine.paths.container_run(container_id))
        self.live = self.watch is not None and self.watch.fd >= 0
        self._watched = -1
        self.reader: LogReader | JournalReader
        if driver == "journald":
            from rl.monitor.logread_journal import JournalReader

            self.reader = JournalReader(container_id, self.live)
            self.changes = self.reader.changes
        else:
            if follow:
                self._watched = _watch(engine.paths, container_id, os.path.dirname(path))
            self.changes = self._watched
            self.reader = LogReader(path, driver)
        if tail >= 0:
            self.reader.tail(tail)

    def drain(self) -> None:
        """Forget that there were changes, before they are read."""
        if self._watched >= 0:
            inotify.drain(self._watched)

    def end(self) -> None:
        """The container has ended: what is there at the next reading is all."""
        self.live = False
        if self._watched < 0:
            time.sleep(0.05)  # the journal has received the last entry, and needs a moment to file it

    def close(self) -> None:
        self.reader.close()
        if self.watch:
            self.watch.close()
        if self._watched >= 0:
            os.close(self._watched)
            self._watched = -1


def _watch(paths: Paths, container_id: str, directory: str) -> int:
    try:
        return inotify.watch(directory, _EVENTS)
    except OSError as error:
        containers.read_config(paths, container_id)  # raises where the container was removed just now
        if isinstance(error, FileNotFoundError):
            raise RlError(f"watch {directory}: {error.strerror}", "the directory of its log was removed") from None
        raise RlError(
            f"watch {directory}: {error.strerror}", "raise the limit: sudo sysctl fs.inotify.max_user_instances=1024"
        ) from None


def records(
    engine: Engine, names: list[str], *, follow: bool = False, since: str = "", until: str = "", tail: int = -1
) -> Iterator[tuple[str, str, str, bytes]]:
    """(container name, stream, RFC 3339 time, data) of what *names* have written; data ends with a newline unless the
    line goes on in the container's next record.

    *follow* goes on until all of them have ended, or *until* has passed. *tail* counts lines, negative: all.
    Raises NoSuchContainerError, UsageError, UnsupportedError (a log driver that keeps nothing).
    """
    first, last = flag_ns("since", since), flag_ns("until", until, ahead=True)
    for source in _sources(engine, names, follow, tail, last):
        for stream, stamp, data in _between(source, first, last):
            yield source.name, stream, stamp, data


def _sources(engine: Engine, names: list[str], follow: bool, tail: int, last: int) -> Iterator[_Source]:
    """Each container whenever there is something to read of it; with *follow* as long as one lives, or until *last*."""
    sources: list[_Source] = []
    try:
        for name in names:
            source = _Source(engine, name, tail, follow)
            sources.append(source)
        yield from sources
        while follow and (going := [source for source in sources if source.live]):
            if not _sleep(going, last):
                return
            yield from going
    finally:
        for source in sources:
            source.close()


def _between(source: _Source, first: int, last: int) -> Iterator[Record]:
    """Its records of that time."""
    if not first and not last:
        yield from source.reader.read()
        return
    seconds: dict[str, int] = {}  # reading a date takes time; many lines share its second
    for record in source.reader.read():
        stamp = record[1]
        key = stamp[:19] + stamp[29:] if stamp[19:20] == "." else stamp
        if key not in seconds:
            seconds.clear()
            seconds[key] = _ns(key)
        at = seconds[key]
        if key is not stamp and stamp[20:29].isdigit():
            at += int(stamp[20:29])
        if last and at > last:
            source.live = False
            return
        if at >= first:
            yield record


def _ns(stamp: str) -> int:
    try:
        return epoch_ns(stamp)
    except UsageError:
        return 0  # damaged: shown rather than hidden only without --since


def _sleep(going: list[_Source], last: int) -> bool:
    """Until something happened to one of them; False when the time is over."""
    poll = select.poll()
    for source in going:
        poll.register(source.changes, select.POLLIN)
        assert source.watch is not None
        if source.watch.fd >= 0:
            poll.register(source.watch.fd, select.POLLIN)
    left = (last - time.time_ns()) / 1e6 if last else None
    ready = {fd for fd, _ in poll.poll(left)} if left is None or left > 0 else set()
    for source in going:
        if source.changes in ready:
            source.drain()
        if source.watch and source.watch.fd in ready and source.watch.ended():
            source.end()
    return bool(ready)


def logs(engine: Engine, names: list[str], options: dict[str, Any], stdout: int = 1, stderr: int = 2) -> None:
    """Write the logs of *names* to *stdout* and *stderr*, each line where the container wrote it.

    *options*: follow, since, until, tail, timestamps, names, color, as of the command line. Raises what :func:`records`
    raises, and BrokenPipeError when nobody reads any more.
    """
    out = _Output(stdout, stderr, bool(options.get("follow")))
    if any(options.get(key) for key in ("timestamps", "color", "since", "until")) or len(names) > 1:
        found = records(
            engine, names, follow=out.live, since=options.get("since", ""), until=options.get("until", ""),
            tail=options.get("tail", -1),
        )
        lines = _Lines(engine, names, options)
        for name, stream, stamp, data in found:
            out.put(stream, lines.dressed(name, stream, stamp, data))
    else:
        for source in _sources(engine, names, out.live, options.get("tail", -1), 0):
            for stream, data in source.reader.texts():
                out.put(stream, data)
    out.flush()


class _Output:
    """Where the lines go: two descriptors that may be one terminal, so the order of what was written must stay."""

    __slots__ = ("_pending", "_size", "_target", "_targets", "live")

    def __init__(self, stdout: int, stderr: int, live: bool) -> None:
        self._targets = {"stderr": stderr, "stdout": stdout}
        self._target = stdout
        self._pending: list[bytes] = []
        self._size = 0
        self.live = live  # nothing is held back

    def put(self, stream: str, data: bytes) -> None:
        target = self._targets.get(stream, self._targets["stdout"])
        if target != self._target:
            self.flush()
            self._target = target
        self._pending.append(data)
        self._size += len(data)
        if self.live or self._size > 1 << 16:
            self.flush()

    def flush(self) -> None:
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._size = 0
        while data:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._target, select.POLLOUT)
                poll.poll()


class _Lines:
    """What the options add to each line: the container (of several), the time, a color for each container."""

    __slots__ = ("_color", "_heads", "_open", "_stamps")

    def __init__(self, engine: Engine, names: list[str], options: dict[str, Any]) -> None:
        self._stamps = bool(options.get("timestamps"))
        self._color = bool(options.get("color"))
        self._open: set[tuple[str, str]] = set()  # streams in the middle of a line
        self._heads: dict[str, str] = {}
        for index, given in enumerate(names):
            container_id = containers.find(engine.paths, given)
            name = containers.read_config(engine.paths, container_id)["name"]
            head = f"\033[{_COLORS[index % len(_COLORS)]}m" if self._color else ""
            if len(names) > 1:
                head += (name if options.get("names") else container_id[:12]) + " "
            self._heads[name] = head

    def dressed(self, name: str, stream: str, stamp: str, data: bytes) -> bytes:
        """*data* with what belongs to the begin and the end of the line."""
        line, whole = (name, stream), data.endswith(b"\n")
        if self._color and whole:
            data = data[:-1] + b"\033[0m\n"
        if line not in self._open:
            if stamp.endswith("+00:00"):
                stamp = stamp[:-6] + "Z"  # as Go writes it
            data = (self._heads[name] + (f"{stamp} " if self._stamps else "")).encode() + data
        (self._open.discard if whole else self._open.add)(line)
        return data
