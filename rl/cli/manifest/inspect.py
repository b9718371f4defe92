"""`rl manifest inspect`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = CONNECTION
HELP = "Print a manifest list: one that is here, or what a registry has under that name (docker://NAME)."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import inspect

    output.write(output.to_json(inspect(engine, arguments[0], **registry(options)), "    ") + "\n")
    return 0
