"""`rl unpause`."""

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
    ("-a --all", "flag", "", "Unpause all paused containers"),
    common.CIDFILE,
    common.filter_option("Unpause"),
    common.LATEST,
)
HELP = "Let the processes of paused containers go on."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.pause import unpause

    names, everything = common.targets(engine, options, arguments, frozenset(("paused",)))
    return common.report(unpause(engine, names, all=everything))
