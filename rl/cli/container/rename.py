"""`rl rename`: another name for a container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER NAME"
ARGUMENTS = (2, 2)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = ()
HELP = "Give a container, running or not, another name."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.rename import rename

    rename(engine, arguments[0], arguments[1])
    return 0
