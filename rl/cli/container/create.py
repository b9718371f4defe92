"""`rl create`: make a container, to be started later."""

from __future__ import annotations

from rl.cli.container.options import CREATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [COMMAND [ARG...]]"
ARGUMENTS = (1, None)
INTERSPERSED = False
COMPLETE = "image"
OPTIONS = CREATE
HELP = """Create a container but do not start it; prints its id.

Start it with `rl start`.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.create import create

    if "creds" in options:
        from rl.cli.common import with_password

        options["creds"] = with_password(options["creds"])
    print(create(engine, arguments[0], arguments[1:], options))
    return 0
