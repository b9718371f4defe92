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
    ("--cidfile", "array", "PATH", "Read a container's id from this file"),
    ("-f --filter", "array", "KEY=VALUE", "Restart the containers that fit, see `rl ps --filter`"),
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
    names = common.names(engine, {"all": running and not arguments, **options}, arguments)
    names = common.filtered(engine, options, names, all=True)
    time = int(options["time"]) if "time" in options else None
    return common.report(restart(engine, names, time=time, all=bool(options.get("all")), running=running))
