"""`rl logs`: what containers have written."""

from __future__ import annotations

import os

from rl.cli import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-f --follow", "flag", "", "Go on with what is written from now on, until the container ends"),
    common.LATEST,
    ("-n --names", "flag", "", "Begin each line with the container's name"),
    ("--since", "value", "TIME", "Show what was written after this time: RFC 3339, seconds since 1970, or 10m ago"),
    ("--tail", "value", "LINES", "Show only the last lines; -1: all", "int"),
    ("-t --timestamps", "flag", "", "Begin each line with its time"),
    ("--until", "value", "TIME", "Show what was written before this time"),
)
HELP = "Show what containers have written to standard output and standard error."




def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.logs import records

    names = common.names(engine, options, arguments)
    prefix = _Prefix(engine, bool(options.get("names")), len(names) > 1, bool(options.get("timestamps")))
    follow = bool(options.get("follow"))
    pending: list[bytes] = []
    size, target = 0, 1
    found = records(
        engine, names, follow=follow, since=options.get("since", ""), until=options.get("until", ""),
        tail=options.get("tail", -1),
    )
    for name, stream, stamp, data in found:
        to = 2 if stream == "stderr" else 1
        # Both may be one terminal: the order of what was written must stay.
        if pending and (to != target or size > _BUFFER):
            _write(target, pending)
            size = 0
        target = to
        pending.append(prefix.before(name, stream, stamp) + data)
        prefix.after(name, stream, data)
        size += len(data)
        if follow:
            _write(target, pending)
    _write(target, pending)
    return 0


_BUFFER = 1 << 16


def _write(fd: int, pending: list[bytes]) -> None:
    view = memoryview(b"".join(pending))
    pending.clear()
    while view:
        view = view[os.write(fd, view) :]


class _Prefix:
    """What begins each line: the container, of several or with --names, and the time with --timestamps."""

    def __init__(self, engine: Engine, by_name: bool, several: bool, stamps: bool) -> None:
        self.engine = engine
        self.by_name = by_name
        self.several = several
        self.stamps = stamps
        self.shown: dict[str, bytes] = {}
        self.open_lines: set[tuple[str, str]] = set()

    def before(self, name: str, stream: str, stamp: str) -> bytes:
        """The prefix of a record; none where it goes on with a line."""
        if (name, stream) in self.open_lines:
            return b""
        return self._container(name) + (f"{stamp} ".encode() if self.stamps else b"")

    def after(self, name: str, stream: str, data: bytes) -> None:
        """Remember whether the line goes on in that stream's next record."""
        if data.endswith(b"\n"):
            self.open_lines.discard((name, stream))
        else:
            self.open_lines.add((name, stream))

    def _container(self, name: str) -> bytes:
        if name not in self.shown:
            text = ""
            if self.by_name:
                text = f"{name} "
            elif self.several:
                from rl.engine.containers import find

                text = f"{find(self.engine.paths, name)[:12]} "
            self.shown[name] = text.encode()
        return self.shown[name]
