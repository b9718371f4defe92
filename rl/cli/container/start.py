"""`rl start`: start containers that were created before or have ended."""

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
    ("--all", "flag", "", "Start all containers"),
    ("-a --attach", "flag", "", "Attach to the container's output and wait for its end"),
    ("--detach-keys", "value", "KEYS", "Keys that detach (default ctrl-p,ctrl-q); empty: none"),
    common.filter_option("Start"),
    ("-i --interactive", "flag", "", "Attach to the container's input too"),
    common.LATEST,
    ("--sig-proxy", "flag", "", "Pass received signals on to the process (default true when attached)"),
)
HELP = """Start containers.

Prints the names of those that were started; with --attach, what the container prints instead.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.start import start

    attached = options.get("attach") or options.get("interactive")
    if options.get("sig_proxy") and not attached:
        raise UsageError("you cannot use sig-proxy without --attach", "add --attach")
    if options.get("all") and attached:
        raise UsageError("you cannot start and attach all containers at once", "leave --all or --attach out")
    names = common.filtered(engine, options, common.names(engine, options, arguments), all=True)
    results, code = start(engine, names, {**options, "all": bool(options.get("all")) and not options.get("filter")})
    return common.report(results, quiet=bool(attached)) or code
