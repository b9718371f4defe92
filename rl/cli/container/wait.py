"""`rl wait`: until containers end."""

from __future__ import annotations

from rl.cli import common, output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("--condition", "list", "STATE", "State to wait for (default stopped): created, running, paused, exited, …"),
    ("--ignore", "flag", "", "A missing container is no error: prints -1"),
    common.LATEST,
)
HELP = "Wait for containers to end and print their exit codes, in the order of the names."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.wait import wait

    names = common.names(engine, options, arguments)
    codes = wait(engine, names, condition=options.get("condition"), ignore=bool(options.get("ignore")))
    output.write("".join([f"{code}\n" for code in codes]))
    return 0
