"""`rl attach`: the streams of a running container."""

from __future__ import annotations

from rl.cli import common
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER"
ARGUMENTS = (0, 1)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("--detach-keys", "value", "KEYS", "Keys that detach (default ctrl-p,ctrl-q); empty: none"),
    common.LATEST,
    ("--no-stdin", "flag", "", "Do not pass standard input on"),
    ("--sig-proxy", "flag", "", "Pass received signals on to the process (default true)"),
)
HELP = "Attach to a running container; ends with its exit code, or 0 when detached."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.attach import attach

    if options.get("latest") and arguments:
        raise UsageError("--latest and a container cannot be used together", "leave --latest or the name out")
    name, _ = common.one(engine, options, arguments)
    return attach(
        engine, name, no_stdin=bool(options.get("no_stdin")), sig_proxy=options.get("sig_proxy", True),
        detach_keys=options.get("detach_keys"),
    )
