"""`rl system upgrade-monitors`: let this rl take over the monitors of running containers."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = ()
HELP = """After an upgrade of rl: let it take over the monitors of running containers.

The containers run on, with the same processes, clients and logs. Prints a line for each; a monitor that cannot be
replaced goes on as it is.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.upgrade import upgrade_monitors

    code = 0
    for container_id, name, error in upgrade_monitors(engine):
        if error is None:
            output.write(f"{container_id[:12]} {name}: upgraded\n")
        else:
            output.complain(error)
            code = error.exit_code
    return code
