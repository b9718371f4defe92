"""`rl system migrate`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (("--new-runtime", "value", "NAME", "Start all containers with this OCI runtime from now on; none may run"),)
HELP = """Bring containers to this version of rl: there is nothing to do, and no pause process.

Changes of /etc/subuid and /etc/subgid count once no container runs.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.migrate import migrate

    if options.get("new_runtime"):
        count = migrate(engine, options["new_runtime"])
        output.write(f"{count} containers will be started with {options['new_runtime']}\n")
    else:
        output.write("Nothing to migrate: containers of other versions of rl are used as they are\n")
    return 0
