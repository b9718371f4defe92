"""`rl update`: change the limits of a container, running or not."""

from __future__ import annotations

from rl.cli import common
from rl.cli.container.options import HEALTH, LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER"
ARGUMENTS = (0, 1)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    *LIMITS,
    *HEALTH,
    ("-e --env", "array", "NAME=VALUE", "Set an environment variable, for exec and the next start"),
    common.LATEST,
    ("--restart", "value", "POLICY", "When to start it again: no, on-failure[:N], always, unless-stopped"),
    ("--unsetenv", "array", "NAME", "Leave out this environment variable, for exec and the next start"),
)
HELP = """Change the limits of a container, its health check, its restart policy or its environment; prints its id.

A running container has the new limits at once, and when it is started again; of one that does not run they are
recorded for its next start. What is not named stays as it is; -1 takes a limit away. A health check begins anew.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.update import update

    name, _ = common.one(engine, options, arguments)
    print(update(engine, name, options))
    return 0
