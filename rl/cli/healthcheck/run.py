"""`rl healthcheck run`: probe a container now."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (("--ignore-result", "flag", "", "Exit with 0 even if the health check fails"),)
HELP = """Run the health check of a container now; its result counts like any other.

The exit code is 0 for a check that succeeds, 1 for one that fails, 125 where none can be run.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.healthcheck import healthcheck_run

    code, status = healthcheck_run(engine, arguments[0])
    if code == 0:
        return 0
    output.write(status + "\n")
    return 0 if options.get("ignore_result") else 1
