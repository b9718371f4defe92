"""`rl volume rename`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME NEWNAME"
ARGUMENTS = (2, 2)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = ()
HELP = "Give a volume that no container uses another name, and print that."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.rename import rename

    output.write(rename(engine, arguments[0], arguments[1]) + "\n")
    return 0
