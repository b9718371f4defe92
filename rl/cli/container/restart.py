"""`rl restart`: stop containers and start them again."""

from __future__ import annotations

from rl.cli import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Restart all containers, whether they run or not"),
    common.CIDFILE,
    common.filter_option("Restart"),
    common.LATEST,
    ("--running", "flag", "", "Restart only containers that run"),
    ("-t --time --timeout", "value", "SECONDS", "Seconds before the kill (default the container's)", "uint"),
)
HELP = """Restart containers.

Those that run are stopped first, with their stop signal, and SIGKILL after the time; the others are started.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.restart import restart

    running = bool(options.get("running"))
    names, everything = common.targets(engine, {"all": running and not arguments, **options}, arguments)
    time = int(options["time"]) if "time" in options else None
    return common.report(restart(engine, names, time=time, all=everything, running=running))
