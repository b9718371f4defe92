"""Reading back from the systemd journal what `rl.monitor.logs_journald` sent there, by the journal's own program.

Called by the engine's logs, in the place of `rl.monitor.logread.LogReader`. journalctl's export format has the bytes as
they were written (systemd, docs/JOURNAL_EXPORT_FORMATS.md). Following, a second journalctl tells that something was
added; what that is, the next :meth:`JournalReader.read` asks from the last entry's cursor on: nothing is missed or
taken twice.
"""

from __future__ import annotations

import os
import subprocess
import time

from rl.errors import RlError, UnsupportedError
from rl.kernel import process
from rl.kernel.proc import outer_uid
from rl.monitor.logread import texts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from rl.monitor.logread import Record

_PROGRAM = "journalctl"
_STREAMS = {b"3": "stderr"}
_ACCESS_HINT = (
    "keep one for each user: sudo mkdir -p /var/log/journal && sudo journalctl --flush; or let this user read all:"
    " sudo usermod -aG systemd-journal $USER, and log in again"
)


def start(match: Sequence[str], *options: str) -> subprocess.Popen[bytes]:
    """A journalctl for the entries with the fields *match*. Raises UnsupportedError where there is none."""
    command = [_PROGRAM, "--quiet", "--no-pager", *options, *match]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"}, preexec_fn=_end_with_parent,
        )  # fmt: skip
    except OSError as error:
        raise UnsupportedError(
            f"read the journal: {_PROGRAM}: {error.strerror}", "install package systemd, whose program this is"
        ) from None


def failure(verb: str, said: str, match: Sequence[str]) -> RlError:
    """What journalctl ended with, as an error of ours."""
    if "insufficient permissions" in said:
        return UnsupportedError(f"{verb} the journal: {said.rstrip('.')}", _ACCESS_HINT)
    return RlError(f"{verb} the journal: {said or f'{_PROGRAM} has ended'}", f"try: {_PROGRAM} {match[0]}")


class JournalReader:
    """The entries of one container, oldest first; can be read on as they come. *follow*: ``changes`` tells of them."""

    def __init__(self, container_id: str, follow: bool = False) -> None:
        # Anybody may write an entry with any field, but for those that the journal adds.
        self._match = (f"CONTAINER_ID_FULL={container_id}", f"_UID={outer_uid()}")
        self._cursor = ""
        self._first: list[Record] | None = None  # what tail() has read
        self.changes = -1  # readable when something was added, if *follow*
        self._follower: subprocess.Popen[bytes] | None = None
        if follow:
            # Its output is read for nothing but being there; the last line of before tells that it watches by now.
            self._follower = start(self._match, "--follow", "--lines=1", "--output=cat", "--output-fields=CONTAINER_ID")
            assert self._follower.stdout is not None
            self.changes = self._follower.stdout.fileno()
            os.set_blocking(self.changes, False)

    def _entries(self, *options: str) -> Iterator[tuple[str, Record]]:
        """(cursor, record) of each entry that journalctl with *options* gives."""
        wanted = "--output-fields=MESSAGE,PRIORITY,CONTAINER_PARTIAL_MESSAGE"
        process = start(self._match, "--output=export", wanted, *options)
        assert process.stdout is not None and process.stderr is not None
        try:
            while fields := _entry(process.stdout):
                yield fields.get("__CURSOR", b"").decode(), _record(fields)
            process.stdout.close()
            said = process.stderr.read().decode(errors="replace").strip()
            if process.wait():
                raise failure("read", said, self._match)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
            process.stderr.close()

    def tail(self, count: int) -> None:
        """Begin with the last *count* lines; reads no more entries than those need."""
        found: list[Record] = []
        wanted = count
        for cursor, record in self._entries("--reverse"):
            self._cursor = self._cursor or cursor
            if record[2].endswith(b"\n") or not found:
                if not wanted:
                    break
                wanted -= 1
            found.append(record)
        self._first = found[::-1]
        if not self._cursor:
            self._first = None

    def read(self) -> Iterator[Record]:
        """Every record up to the present end; call again for what came since."""
        if self._follower:
            self._drain()
        if self._first is not None:
            yield from self._first
            self._first = None
        after = (f"--after-cursor={self._cursor}",) if self._cursor else ()
        for cursor, record in self._entries(*after):
            self._cursor = cursor
            yield record

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """As :meth:`read`, but only (stream, data)."""
        return texts_of(self.read())

    def _drain(self) -> None:
        assert self._follower is not None and self._follower.stderr is not None
        try:
            while os.read(self.changes, 65536):
                pass
        except BlockingIOError:
            return
        raise failure("follow", self._follower.stderr.read().decode(errors="replace").strip(), self._match)

    def close(self) -> None:
        """End what still runs."""
        if self._follower:
            self._follower.kill()
            self._follower.communicate()
            self._follower = None


def _end_with_parent() -> None:
    """A follower of a container that writes nothing would never notice that its reader was killed."""
    process.prctl(process.PR_SET_PDEATHSIG, 15)


def _entry(stream: IO[bytes]) -> dict[str, bytes]:
    """The next entry of the export format; {} at the end."""
    fields: dict[str, bytes] = {}
    while line := stream.readline():
        if line == b"\n":
            if fields:
                break
            continue
        name, equals, value = line[:-1].partition(b"=")
        if not equals:
            value = stream.read(int.from_bytes(stream.read(8), "little"))
            stream.read(1)
        fields[name.decode(errors="replace")] = value
    return fields


def _record(fields: dict[str, bytes]) -> Record:
    seconds, micros = divmod(int(fields.get("__REALTIME_TIMESTAMP", b"0")), 1_000_000)
    local = time.localtime(seconds)
    sign, offset = ("+", local.tm_gmtoff) if local.tm_gmtoff >= 0 else ("-", -local.tm_gmtoff)
    zone = f"{sign}{offset // 3600:02d}:{offset // 60 % 60:02d}"
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{micros:06d}000{zone}"
    end = b"" if "CONTAINER_PARTIAL_MESSAGE" in fields else b"\n"
    return _STREAMS.get(fields.get("PRIORITY", b""), "stdout"), stamp, fields.get("MESSAGE", b"") + end
