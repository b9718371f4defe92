"""`rl info`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (("-f --format", "value", "FORMAT", "json, or a Go template"),)
HELP = "Show what this host and this rl can do: storage, network, id maps, limits, and what to install for more."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.info import info

    found = info(engine)
    if options.get("format"):
        output.print_one(options["format"], found)
    else:
        output.write(output.to_yaml(found))
    return 0
