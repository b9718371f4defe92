"""rl events: what `rl.engine.events` and the monitors have told, from before and as it comes; nothing is polled.

The log of lines is followed by inotify on its directory, across the renames of its rotation; the journal by a
`journalctl --follow`. Called by the command line.
"""

from __future__ import annotations

import os
import select
import time

from rl.config.jsonio import loads
from rl.engine import events as told
from rl.engine.times import flag_ns
from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel import inotify
from rl.monitor import eventlog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rl.config.model import Event, EventLog
    from rl.engine.context import Engine

    Test = Callable[[Event], bool]

_BLOCK = 1 << 18
_CHANGES = inotify.IN_MODIFY | inotify.IN_MOVED_TO | inotify.IN_CREATE | inotify.IN_DELETE_SELF
FILTERS = ("container", "event", "image", "label", "network", "pod", "secret", "status", "type", "volume")


def events(engine: Engine, options: dict[str, Any]) -> Iterator[Event]:
    """The events that *options* choose, oldest first.

    *filter*: of different keys all must fit, of one key any. *since* and *until*: times (rl.engine.times.flag_ns).
    *stream* (default true): go on with what comes, until *until* has passed; without both of them only what comes.
    Raises UsageError, UnsupportedError where nothing is kept, RlError.
    """
    log = told.log(engine.paths)
    fits = tests(options.get("filter", []))
    since = flag_ns("since", options.get("since", ""))
    until = flag_ns("until", options.get("until", ""), ahead=True)
    follow = bool(options.get("stream", True))
    if follow and not options.get("since") and not until:
        since = time.time_ns()
    if until and until <= time.time_ns():
        follow = False
    if log["backend"] == "file" and (lost := eventlog.lost(log["path"])):
        engine.warn(f"{lost} events were lost: {os.path.dirname(log['path'])} was full")
    for event in _source(log, follow, since, until):
        at = event["timeNano"]
        if until and at > until:
            continue
        if at >= since and all(test(event) for test in fits):
            yield event


def _source(log: EventLog, follow: bool, since: int, until: int) -> Iterator[Event]:
    if log["backend"] == "none":
        raise UnsupportedError(
            'cannot read events with the "none" backend',
            'set events_logger = "file" in containers.conf, or call the commands with --events-backend=file',
        )
    if log["backend"] == "journald":
        from rl.engine.eventstream_journald import read

        return read(follow, since, until)
    return _read_file(log["path"], follow, until)


# filters


def tests(filters: list[str]) -> list[Test]:
    """One test for each key. Raises UsageError for a filter that is not one of podman-events(1)."""
    by_key: dict[str, list[str]] = {}
    for item in filters:
        key, equals, value = item.partition("=")
        if not equals:
            what = f"failed to parse event filters: cannot parse filter ({item}): must be in the format of filter=value"
            raise UsageError(what, _HINT)
        key = key.lower()
        if key not in FILTERS:
            raise UsageError(f"failed to parse event filters: {key} is an invalid filter", _HINT)
        by_key.setdefault("event" if key == "status" else key, []).append(value)
    return [_test(key, values) for key, values in by_key.items()]


_HINT = f"use {', '.join(FILTERS)}: --filter event=died"


def _test(key: str, values: list[str]) -> Test:
    if key == "event":
        wanted = {"died" if value == "die" else value.lower() for value in values}  # Docker's name for it
        return lambda event: event["Status"].lower() in wanted
    if key == "type":
        kinds = {value.lower() for value in values}
        return lambda event: event["Type"] in kinds
    if key == "label":
        pairs = [value.partition("=") for value in values]
        return lambda event: any(_has_label(event, *pair) for pair in pairs)
    if key == "image":
        return lambda event: any(_is_image(event, value) for value in values)
    if key == "pod":
        return lambda event: any(_is_object(event, "pod", v) or _begins(event.get("PodID", ""), v) for v in values)
    return lambda event: any(_is_object(event, key, value) for value in values)


def _has_label(event: Event, name: str, equals: str, value: str) -> bool:
    found = event.get("Attributes", {}).get(name)
    return found is not None and (not equals or found == value)


def _begins(identity: str, value: str) -> bool:
    return bool(value) and identity.startswith(value)


def _is_object(event: Event, kind: str, value: str) -> bool:
    """Whether the event is of the object of *kind* with this name, id or beginning of an id."""
    if kind == "network" and value and event.get("Network") == value:
        return True
    return event["Type"] == kind and bool(value) and (event["Name"] == value or event["ID"].startswith(value))


def _is_image(event: Event, value: str) -> bool:
    """An image's event by its id or name, a short one means any registry; not those of its containers, as in Podman."""
    if event["Type"] != "image" or not value:
        return False
    last, name = value.rpartition("/")[2], event["Name"]
    full = value if ":" in last or "@" in last else f"{value}:latest"
    return _begins(event["ID"], value.removeprefix("sha256:")) or name == full or name.endswith(f"/{full}")


# the log of lines


def parse(line: bytes) -> Event | None:
    """The event of a line; None for one that a full disk has torn. What was written after the torn part is found."""
    at = line.rfind(eventlog.BEGIN)
    try:
        event: Event = loads(line[at:].decode()) if at >= 0 else {}
        return event if isinstance(event.get("timeNano"), int) and event.keys() >= _NEEDED else None
    except (ValueError, AttributeError):
        return None


_NEEDED = {"Type", "Status", "ID", "Name"}


class _File:
    """One file of the log, read from ``position`` on."""

    __slots__ = ("fd", "identity", "position", "rest")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.fd)
        self.identity = (status.st_dev, status.st_ino)
        self.position = 0
        self.rest = b""

    def events(self) -> Iterator[Event]:
        while block := os.pread(self.fd, _BLOCK, self.position):
            self.position += len(block)
            *lines, self.rest = (self.rest + block).split(b"\n")
            for line in lines:
                event = parse(line)
                if event is not None:
                    yield event


class Reader:
    """The two files of a log, as one stream that can be read on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = self._open()

    def _open(self) -> list[_File]:
        """Older and present file; looked at again when a rotation came between."""
        names = (f"{self._path}.1", self._path)
        while True:
            found: list[_File] = []
            for path in names:
                try:
                    found.append(_File(path))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise RlError(f"read {path}: {error.strerror}") from None
            if [file.identity for file in found] == [one for one in map(_identity, names) if one]:
                return found
            for file in found:
                os.close(file.fd)

    def read(self) -> Iterator[Event]:
        """Every event up to the present end; call again for what came since."""
        while True:
            if self._files:
                yield from self._files[0].events()
            if len(self._files) <= 1 and not self._rotated():
                return
            # Its name is another's now, and who renames holds the lock of those who append: this is the end of it.
            if len(self._files) > 1:
                yield from self._files[0].events()
                os.close(self._files.pop(0).fd)

    def _rotated(self) -> bool:
        """Whether there are files newer than the one being read; they are queued."""
        present = self._files[0].identity if self._files else None
        if _identity(self._path) in (present, None):
            return False
        found = self._open()
        known = [file.identity for file in found]
        keep = known.index(present) + 1 if present in known else 0
        for file in found[:keep]:
            os.close(file.fd)
        self._files += found[keep:]
        return bool(found[keep:])

    def close(self) -> None:
        for file in self._files:
            os.close(file.fd)
        self._files = []


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read_file(path: str, follow: bool, until: int) -> Iterator[Event]:
    watch = _watch(os.path.dirname(path)) if follow else -1  # before the first reading: nothing falls between
    reader = Reader(path)
    try:
        while True:
            yield from reader.read()
            if not follow or not wait(watch, until):
                return
            inotify.drain(watch)
    finally:
        reader.close()
        if watch >= 0:
            os.close(watch)


def wait(fd: int, until: int) -> bool:
    """Until there is something to read from *fd*; False when *until* (0: never) has passed."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left = (until - time.time_ns()) / 1e6 if until else None
        if left is not None and left <= 0:
            return False
        if poll.poll(None if left is None else min(left, 60_000.0) + 1):
            return True


def _watch(directory: str) -> int:
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        return inotify.watch(directory, _CHANGES)
    except OSError as error:
        raise RlError(
            f"watch {directory}: {error.strerror}", "raise the limit: sudo sysctl fs.inotify.max_user_instances=1024"
        ) from None
