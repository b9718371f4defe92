"""`rl volume export`."""

from __future__ import annotations

import os

from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = (("-o --output", "value", "FILE", "Write the archive to this file (default: standard output)"),)
HELP = "Write the files of a volume as a tar archive."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume import records
    from rl.engine.volume.export import export

    path = options.get("output", "-")
    if not path:
        raise UsageError("must provide valid path for file to write to", "write -o FILE")
    if path in ("-", "/dev/stdout"):
        if os.isatty(1):
            raise UsageError(
                "cannot write to terminal, use command-line redirection or the --output flag",
                "rl volume export VOLUME > FILE",
            )
        export(engine, arguments[0], 1)
        return 0
    records.find(engine.paths, arguments[0])  # a file is not overwritten for a volume that does not exist
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RlError(f'unable to create target file path "{path}": {error.strerror}') from None
    try:
        export(engine, arguments[0], fd)
    finally:
        os.close(fd)
    return 0
