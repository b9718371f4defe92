"""`rl help`: the help of a command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[COMMAND...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "command"
STATELESS = True
OPTIONS = ()
HELP = "Show help about a command."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.cli.clicked import invoke

    return invoke([*arguments, "--help"])
