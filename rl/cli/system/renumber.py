"""`rl system renumber`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
STATELESS = True
OPTIONS = ()
HELP = "Renumber locks after a change of num_locks in containers.conf: locks here are files and have no numbers."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    output.write("Nothing to renumber: rl's locks are files, their number is not limited\n")
    return 0
