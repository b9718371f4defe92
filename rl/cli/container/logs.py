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
    ("--color", "flag", "", "Give the lines of each container a color"),
    ("-f --follow", "flag", "", "Go on with what is written from now on, until the container ends"),
    common.LATEST,
    ("-n --names", "flag", "", "Of several containers: begin each line with the name instead of the id"),
    ("--since", "value", "TIME", "Show what was written after this time: RFC 3339, seconds since 1970, or 10m ago"),
    ("--tail", "value", "LINES", "Show only the last lines; -1: all", "int"),
    ("-t --timestamps", "flag", "", "Begin each line with its time"),
    ("--until", "value", "TIME", "Show what was written before this time; 10m is in ten minutes, -10m was ten ago"),
)
HELP = "Show what containers have written to standard output and standard error."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.logs import logs

    logs(engine, common.names(engine, options, arguments), options)
    return 0
