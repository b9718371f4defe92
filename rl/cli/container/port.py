"""`rl port`: published ports."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [PORT[/PROTOCOL]]"
ARGUMENTS = (0, 2)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Show the ports of all running containers"),
    common.LATEST,
)
HELP = "List the published ports of a container, or where one port of it is published."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.port import lines, port

    everything = bool(options.get("all"))
    if everything:
        if options.get("latest"):
            raise UsageError("--all and --latest cannot be used together", "leave one of them out")
        name, rest = (arguments[0] if arguments else ""), arguments[1:]
    else:
        name, rest = common.one(engine, options, arguments)
    private = rest[0] if rest else ""
    found = port(engine, name, private, all=everything)
    output.write("".join([line + "\n" for line in lines(found, private, everything)]))
    return 0
