"""`rl rm`: remove containers."""

from __future__ import annotations

from rl.cli import common
from rl.errors import ConflictError, NoSuchContainerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Remove all containers"),
    common.CIDFILE,
    ("--depend", "flag", "", "Remove the containers that need them too"),
    common.filter_option("Remove", short=False),
    ("-f --force", "flag", "", "Stop running containers first; a missing one is no error"),
    ("-i --ignore", "flag", "", "A missing container is no error"),
    common.LATEST,
    ("-t --time --timeout", "value", "SECONDS", "With --force, seconds to wait before the kill", "int"),
    ("-v --volumes", "flag", "", "Remove the containers' anonymous volumes too"),
)
HELP = """Remove containers.

Exit codes: 0 all removed, 1 one did not exist, 2 one is running or paused, 125 anything else.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.rm import rm

    if "time" in options and not options.get("force"):
        raise UsageError("--force option must be specified to use the --time option", "add --force")
    names, everything = common.targets(engine, options, arguments)
    results = rm(
        engine, names, force=bool(options.get("force")), all=everything,
        ignore=bool(options.get("ignore") or options.get("force")), time=options.get("time"),
        volumes=bool(options.get("volumes")), depend=bool(options.get("depend")),
    )
    common.report(results)
    codes = {_code(error) for _, error in results if error is not None}
    return min(codes) if codes else 0


def _code(error: Exception) -> int:
    """podman-rm(1), "Exit Status"; of several the least is told, as by Podman."""
    return 1 if isinstance(error, NoSuchContainerError) else 2 if isinstance(error, ConflictError) else 125
