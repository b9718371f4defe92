"""`rl logout`: forget credentials for a registry."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[REGISTRY]"
ARGUMENTS = (0, 1)
INTERSPERSED = True
OPTIONS = (
    ("-a --all", "flag", "", "Forget the credentials for all registries"),
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
)
HELP = "Forget the credentials for a registry."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.logout import logout

    if options.get("all") and arguments:
        raise UsageError("--all takes no arguments", "leave --all or the registry out")
    registry = arguments[0] if arguments else ""
    output.write(logout(engine, registry, all=bool(options.get("all")), authfile=options.get("authfile", "")) + "\n")
    return 0
