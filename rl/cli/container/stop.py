"""`rl stop`: end containers, with the signal they ask for first."""

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
    ("-a --all", "flag", "", "Stop all running containers"),
    common.CIDFILE,
    common.filter_option("Stop"),
    ("-i --ignore", "flag", "", "A missing container is no error"),
    common.LATEST,
    ("-t --time --timeout", "value", "SECONDS", "Seconds before the kill; -1: for ever (default the container's)",
     "int"),
)
HELP = "Stop running containers: their stop signal first, SIGKILL after the time."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import containers
    from rl.engine.stop import stop

    names, everything = common.targets(engine, options, arguments, containers.MONITORED)
    ignore = bool(options.get("ignore"))
    return common.report(stop(engine, names, time=options.get("time"), ignore=ignore, all=everything))
