"""`rl export`: a container's root file system as a tar archive."""

from __future__ import annotations

import sys

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (("-o --output", "value", "PATH", "Write to this file instead of standard output"),)
HELP = "Write a container's root file system as a tar archive, which `rl import` reads. Mounted volumes are not in it."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.export import export

    target: str | int = options.get("output", "")
    if not target:
        if sys.stdout.isatty():
            raise UsageError("refusing to export to terminal. Use -o flag or redirect",
                             "rl export -o FILE CONTAINER, or rl export CONTAINER > FILE")
        target = 1
    export(engine, arguments[0], target)
    return 0
