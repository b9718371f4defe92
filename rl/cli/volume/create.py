"""`rl volume create`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[NAME]"
ARGUMENTS = (0, 1)
INTERSPERSED = True
OPTIONS = (
    ("-d --driver", "value", "NAME", "Driver of the volume; there is local only"),
    ("--gid", "value", "ID", "Group of the volume, an id in the containers' user namespace", "uint"),
    ("--ignore", "flag", "", "A volume that exists already is no error"),
    ("-l --label", "array", "KEY=VALUE", "Set metadata on the volume"),
    ("-o --opt", "array", "KEY=VALUE", "Option of the driver: type=, device=, o=, copy, nocopy"),
    ("--uid", "value", "ID", "Owner of the volume, an id in the containers' user namespace", "uint"),
)
HELP = """Create a volume and print its name; without NAME one of 64 hex digits.

A volume is a directory. With -o type=tmpfs, type=none (with -o device=/path -o o=bind) or type=overlay it is a file
system that is mounted while containers use it; what else -o o= holds are options of that mount, and size=, inodes=,
uid=, gid=. A size for a plain directory needs project quotas and root.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.create import create

    name = create(
        engine, arguments[0] if arguments else "", driver=options.get("driver", "local"), labels=options.get("label"),
        options=options.get("opt"), ignore=bool(options.get("ignore")), uid=options.get("uid", -1),
        gid=options.get("gid", -1),
    )
    output.write(name + "\n")
    return 0
