"""rl logs: what containers have written, across rotated files; follows by being told, not by looking again.

:func:`records` is for programs, :func:`logs` writes to descriptors as the command line needs it.
"""

from __future__ import annotations

import os
import select
import time

from rl.engine import containers
from rl.engine.times import epoch_ns
from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel import inotify
from rl.monitor.client import ExitWatch
from rl.monitor.logread import LogReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rl.engine.context import Engine
    from rl.monitor.logread_journal import JournalReader

_UNITS = {"h": 3600.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "m": 60.0, "s": 1.0}
_EVENTS = inotify.IN_MODIFY | inotify.IN_MOVED_TO | inotify.IN_CREATE
_COLORS = (37, 31, 32, 33, 34, 35, 36)


def moment(text: str) -> int:
    """Nanoseconds since 1970 of a time: RFC 3339, a date, seconds since 1970, or a duration ago (``1h30m``).

    Raises UsageError.
    """
    try:
        return int(float(text) * 10**9)
    except ValueError:
        pass
    if text[4:5] == "-":
        return epoch_ns(text if len(text) > 10 else f"{text}T00:00:00Z")
    seconds, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((unit for unit in _UNITS if rest.startswith(unit, digits)), "")
        try:
            seconds += float(rest[:digits]) * _UNITS[unit]
        except (ValueError, KeyError):
            break
        rest = rest[digits + len(unit) :]
    if rest or not text:
        raise UsageError(f"{text!r} is no time", "use 2024-01-31T12:00:00Z, 2024-01-31, 1706702400 or 1h30m (ago)")
    return time.time_ns() - int(seconds * 10**9)


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
            self.changes = self._watched = _watch(os.path.dirname(path)) if follow else -1
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


def _watch(directory: str) -> int:
    try:
        return inotify.watch(directory, _EVENTS)
    except OSError as error:
        raise RlError(
            f"watch {directory}: {error.strerror}", "raise the limit: sudo sysctl fs.inotify.max_user_instances=1024"
        ) from None


def records(
    engine: Engine, names: list[str], *, follow: bool = False, since: str = "", until: str = "", tail: int = -1
) -> Iterator[tuple[str, str, str, bytes]]:
    """(container name, stream, RFC 3339 time, data) of what *names* have written; data ends with a newline unless the
    line goes on in the container's next record.

    *follow* goes on until all of them have ended, or *until* has passed. *tail* counts lines, -1: all.
    Raises NoSuchContainerError, UsageError, UnsupportedError (a log driver that keeps nothing).
    """
    first = moment(since) if since else 0
    last = moment(until) if until else 0
    sources: list[_Source] = []
    try:
        for name in names:
            source = _Source(engine, name, tail, follow)
            sources.append(source)
        for source in sources:
            yield from _read(source, first, last)
        while follow and (going := [source for source in sources if source.live]):
            if not _sleep(going, last):
                return
            for source in going:
                yield from _read(source, first, last)
    finally:
        for source in sources:
            source.close()


def _read(source: _Source, first: int, last: int) -> Iterator[tuple[str, str, str, bytes]]:
    for stream, stamp, data in source.reader.read():
        if first or last:
            at = _ns(stamp)
            if at < first:
                continue
            if last and at > last:
                source.live = False
                return
        yield source.name, stream, stamp, data


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


def logs(engine: Engine, names: list[str], options: dict[str, Any], stdout: int = 1, stderr: int = 2) -> int:
    """Write the logs of *names* to *stdout* and *stderr*, each line where the container wrote it; 0.

    *options*: follow, since, until, tail, timestamps, names, color. Ends quietly when the reader goes away.
    """
    found = records(
        engine, names, follow=bool(options.get("follow")), since=options.get("since", ""),
        until=options.get("until", ""), tail=options.get("tail", -1),
    )
    targets = {"stdout": stdout, "stderr": stderr}
    plain = len(names) == 1 and not any(options.get(key) for key in ("timestamps", "names", "color"))
    labels: dict[str, str] = {}
    pending: list[bytes] = []
    size, target = 0, stdout
    middle: dict[tuple[str, str], bool] = {}  # the line was begun by an earlier record
    live = bool(options.get("follow"))
    try:
        for name, stream, stamp, data in found:
            fd = targets.get(stream, stdout)
            if fd != target or size > 1 << 16 or (live and pending):
                _write(target, pending)
                size, target = 0, fd
            if not plain:
                begun = middle.get((name, stream), False)
                middle[name, stream] = not data.endswith(b"\n")
                if not begun:
                    if name not in labels:
                        labels[name] = _label(engine, name, len(names) > 1, bool(options.get("names")))
                    data = _prefix(labels[name], stamp, options) + data
                if options.get("color") and not middle[name, stream]:
                    data = data[:-1] + b"\033[0m\n"
            pending.append(data)
            size += len(data)
            if live:
                _write(target, pending)
        _write(target, pending)
    except BrokenPipeError:
        pass
    return 0


def _label(engine: Engine, name: str, several: bool, by_name: bool) -> str:
    """What tells the lines of several containers apart: the name if asked for, otherwise the short id, as in Podman."""
    if by_name or not several:
        return name if by_name else ""
    return containers.find(engine.paths, name)[:12]


def _prefix(label: str, stamp: str, options: dict[str, Any]) -> bytes:
    text = f"\033[{_COLORS[sum(label.encode()) % len(_COLORS)]}m" if options.get("color") else ""
    if label:
        text += label + " "
    if options.get("timestamps"):
        text += stamp + " "
    return text.encode()


def _write(fd: int, parts: list[bytes]) -> None:
    data = memoryview(b"".join(parts))
    parts.clear()
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
