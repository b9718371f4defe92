"""`rl container cleanup`."""

from __future__ import annotations

from rl.cli import common
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Clean up after all containers"),
    ("--exec", "value", "ID", "Clean up after this exec session instead of the container"),
    common.LATEST,
    ("--rm", "flag", "", "Remove the container then"),
    ("--rmi", "flag", "", "Remove the container's image then"),
    ("--stopped-only", "flag", "", "Leave containers that run alone, without an error"),
)
HELP = """Free what containers that have ended left behind: mounts, network, cgroup, processes.

Containers clean up after themselves; this is for those whose monitor was killed.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.cleanup import cleanup, cleanup_session

    names = common.names(engine, options, arguments)
    if "exec" in options:
        if options.get("all") or len(names) != 1:
            raise UsageError("exec and all options conflict: one container is needed with --exec", "name it")
        if options.get("rmi"):
            raise UsageError("cannot clean up exec session and remove image at the same time", "leave one of them out")
        cleanup_session(engine, names[0], options["exec"])
    return common.report(cleanup(
        engine, names, all=bool(options.get("all")), remove=bool(options.get("rm")),
        remove_image=bool(options.get("rmi")), stopped_only=bool(options.get("stopped_only")),
    ))
