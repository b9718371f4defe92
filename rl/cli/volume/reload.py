"""`rl volume reload`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = ()
HELP = "Take over the volumes that volume plugins know: rl runs no plugins, so there is nothing to take over."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return 0
