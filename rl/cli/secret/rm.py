"""`rl secret rm`: remove secrets."""

from __future__ import annotations

from rl.cli import common
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "SECRET [SECRET...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "secret"
OPTIONS = (
    ("-a --all", "flag", "", "Remove all secrets"),
    ("-i --ignore", "flag", "", "Do not fail for secrets that are not there"),
)
HELP = """Remove secrets; prints their ids.

Containers that have one keep it: they were given a copy when they were made.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import secrets

    everything = bool(options.get("all"))
    if everything == bool(arguments):
        raise UsageError("`rl secret rm` requires one argument, or the --all flag", "`rl secret ls` lists them")
    return common.report(secrets.rm(engine, arguments, all=everything, ignore=bool(options.get("ignore"))))
