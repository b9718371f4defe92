"""`rl pause`."""

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
    ("-a --all", "flag", "", "Pause all running containers"),
    common.CIDFILE,
    common.filter_option("Pause"),
    common.LATEST,
)
HELP = """Stop all processes of containers where they are; `rl unpause` lets them go on.

Needs a cgroup: `rl info` tells whether containers have one here.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.pause import pause

    names, everything = common.targets(engine, options, arguments, frozenset(("running",)))
    return common.report(pause(engine, names, all=everything))
