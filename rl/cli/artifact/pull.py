"""`rl artifact pull`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME"
ARGUMENTS = (1, 1)
INTERSPERSED = True
OPTIONS = (("-q --quiet", "flag", "", "Show no progress; there is none to be shown"), *CONNECTION)
HELP = "Pull an artifact from a registry, and print its digest."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import pull

    output.write(pull(engine, arguments[0], **registry(options)) + "\n")
    return 0
