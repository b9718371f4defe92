"""`rl run`: create a container from an image and run it."""

from __future__ import annotations

from rl.cli.container.options import CREATE, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [COMMAND [ARG...]]"
ARGUMENTS = (1, None)
INTERSPERSED = False
COMPLETE = "image"
OPTIONS = (*CREATE, *RUN)
HELP = """Run a command in a new container.

The exit code is the command's own; 125: rl failed, 126: the command cannot be invoked, 127: there is no such command.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.run import run as engine_run

    if "creds" in options:
        from rl.cli.common import with_password

        options["creds"] = with_password(options["creds"])
    return engine_run(engine, arguments[0], arguments[1:], options, on_detached=print)
