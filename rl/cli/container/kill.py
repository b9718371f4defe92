"""`rl kill`: send a signal to running containers."""

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
    ("-a --all", "flag", "", "Signal all running containers"),
    common.CIDFILE,
    common.filter_option("Signal"),
    common.LATEST,
    ("-s --signal", "value", "SIGNAL", "Name with or without SIG, or number (default KILL)"),
)
HELP = "Send a signal to the first process of running containers; SIGKILL unless another is named."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import containers
    from rl.engine.kill import kill

    names, everything = common.targets(engine, options, arguments, containers.MONITORED)
    return common.report(kill(engine, names, signal=options.get("signal", "KILL"), all=everything))
