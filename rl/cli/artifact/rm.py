"""`rl artifact rm`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[NAME...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
OPTIONS = (("-a --all", "flag", "", "Remove all artifacts"),)
HELP = "Remove artifacts, and print their digests."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import remove

    everything = bool(options.get("all"))
    if everything == bool(arguments):
        raise UsageError("name artifacts, or use --all", "`rl artifact ls` lists them")
    output.write("".join(digest + "\n" for digest in remove(engine, arguments, all=everything)))
    return 0
