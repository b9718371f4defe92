"""`rl artifact inspect`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME"
ARGUMENTS = (1, 1)
INTERSPERSED = True
OPTIONS = ()
HELP = "Show all that is known of an artifact."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import inspect

    output.write(output.to_json(inspect(engine, arguments[0]), "     ") + "\n")
    return 0
