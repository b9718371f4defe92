"""`rl logs`: what containers have written."""

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
    ("-f --follow", "flag", "", "Go on with what is written from now on, until the container ends"),
    common.LATEST,
    ("-n --names", "flag", "", "Begin each line with the container's name"),
    ("--since", "value", "TIME", "Show what was written after this time: RFC 3339, seconds since 1970, or 10m ago"),
    ("--tail", "value", "LINES", "Show only the last lines; -1: all", "int"),
    ("-t --timestamps", "flag", "", "Begin each line with its time"),
    ("--until", "value", "TIME", "Show what was written before this time"),
)
HELP = "Show what containers have written to standard output and standard error."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.logs import logs

    names = common.names(engine, options, arguments)
    return logs(engine, names, options)
