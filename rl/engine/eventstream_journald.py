"""Reading events back from the systemd journal, by the journal's own program.

Called by `rl.engine.eventstream`; `rl.monitor.eventlog_journald` writes them. One journalctl gives those of before and,
following, those that come: nothing is asked twice.
"""

from __future__ import annotations

import os
import select
import time

from rl.config.jsonio import loads
from rl.engine.times import epoch_ns
from rl.errors import UnsupportedError
from rl.kernel.proc import outer_uid
from rl.monitor import eventlog_journald, logread_journal, logs_journald

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rl.config.model import Event


def read(follow: bool, since: int, until: int) -> Iterator[Event]:
    """The events of the calling user, oldest first; *since* and *until* in ns since 1970, 0: no limit.

    Raises UnsupportedError where there is no journal or it may not be read.
    """
    if reason := logs_journald.problem():
        raise UnsupportedError(
            f"read events: {reason}", 'set events_logger = "file" in containers.conf, or use --events-backend=file'
        )
    options = ["--output=export"]
    # A second more: the journal's own time is a little later than the event's, which the caller looks at.
    if since:
        options.append(f"--since=@{since // 10**9 - 1}")
    if until and not follow:
        options.append(f"--until=@{until // 10**9 + 2}")
    if follow:
        options += ["--follow", "--lines=all"]
    match = (f"SYSLOG_IDENTIFIER={eventlog_journald.IDENTIFIER}", f"_UID={outer_uid()}")
    process = logread_journal.start(match, *options)
    assert process.stdout is not None and process.stderr is not None
    try:
        yield from _events(process.stdout.fileno(), until if follow else 0)
        if not follow:
            said = process.stderr.read().decode(errors="replace").strip()
            if process.wait():
                raise logread_journal.failure("read", said, match)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _events(fd: int, until: int) -> Iterator[Event]:
    """The events of journalctl's export format (systemd, docs/JOURNAL_EXPORT_FORMATS.md), until its end or *until*."""
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left = (until - time.time_ns()) / 1e6 if until else None
        if left is not None and (left <= 0 or not poll.poll(left + 1)):
            return
        piece = os.read(fd, 1 << 16)
        if not piece:
            return
        data += piece
        while (end := _entry_end(data)) > 0:
            event = _event(_fields(data[:end]))
            data = data[end:]
            if event is not None:
                yield event


def _entry_end(data: bytes) -> int:
    """Where the first entry of *data* ends; 0 while it is not complete. Values of several lines are told by length."""
    at = 0
    while True:
        line = data.find(b"\n", at)
        if line < 0:
            return 0
        if line == at:
            return line + 1
        if b"=" not in data[at:line]:
            if len(data) < line + 9:
                return 0
            line += 9 + int.from_bytes(data[line + 1 : line + 9], "little")
            if len(data) <= line:
                return 0
        at = line + 1


def _fields(entry: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while (line := entry.find(b"\n", at)) > at:
        name, equals, value = entry[at:line].partition(b"=")
        if not equals:
            begin = line + 9
            line = begin + int.from_bytes(entry[line + 1 : begin], "little")
            value = entry[begin:line]
        found[name.decode(errors="replace")] = value.decode("utf-8", "surrogateescape")
        at = line + 1
    return found


def _event(fields: dict[str, str]) -> Event | None:
    """The event of an entry, None if it is another message under our name."""
    event: Event = {}
    try:
        for name, key in eventlog_journald.FIELDS:
            if name in fields:
                event[key] = fields[name]  # type: ignore[literal-required]
        event["timeNano"] = epoch_ns(event["Time"])
        if "PODMAN_EXIT_CODE" in fields:
            event["ContainerExitCode"] = int(fields["PODMAN_EXIT_CODE"])
        if eventlog_journald.LABELS in fields:
            event["Attributes"] = loads(fields[eventlog_journald.LABELS])
        return event if event.keys() >= {"Type", "Status", "ID", "Name"} else None
    except (KeyError, ValueError, UnsupportedError):
        return None
