"""`rl volume import`."""

from __future__ import annotations

import os

from rl.errors import NotFoundError, RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME [SOURCE]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = ()
HELP = """Unpack a tar archive into a volume: the file SOURCE, or standard input for - and without SOURCE.

It may be compressed by gzip, zstd, xz or bzip2. What the volume has already is kept, unless the archive has it too.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.import_ import import_

    source = arguments[1] if len(arguments) > 1 else "-"
    if source == "-":
        if os.isatty(0):
            raise UsageError("cannot read an archive from a terminal", "rl volume import VOLUME FILE, or < FILE")
        import_(engine, arguments[0], 0, "standard input")
        return 0
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"open {source}: no such file or directory") from None
    except OSError as error:
        raise RlError(f"open {source}: {error.strerror}") from None
    try:
        import_(engine, arguments[0], fd, source)
    finally:
        os.close(fd)
    return 0
