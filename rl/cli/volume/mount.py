"""`rl volume mount`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = ()
HELP = """Mount a volume and print the directory with its files.

For ordinary users inside `rl unshare` only, where what is mounted ends with the shell.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.mount import mount

    output.write(mount(engine, arguments[0]) + "\n")
    return 0
