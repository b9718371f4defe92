"""`rl secret exists`: the exit code tells."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "SECRET"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "secret"
OPTIONS = ()
HELP = "Tell whether a secret exists: exit code 0 yes, 1 no."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import secrets

    return 0 if secrets.exists(engine, arguments[0]) else 1
