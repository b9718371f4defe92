"""`rl wait`: until containers end."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import RlError

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

    code = 0
    for name in common.names(engine, options, arguments):
        try:
            found = wait(engine, [name], conditions=options.get("condition"), ignore=bool(options.get("ignore")))
        except RlError as error:
            output.complain(error)
            code = error.exit_code
            continue
        output.write("".join([f"{one}\n" for one in found]))
    return code
