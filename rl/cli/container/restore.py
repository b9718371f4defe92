"""`rl container restore`: refused, with the reason."""

from __future__ import annotations

from rl.cli import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER|IMAGE [CONTAINER|IMAGE...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Restore all checkpointed containers"),
    ("--file-locks", "flag", "", "With file locks"),
    ("--ignore-rootfs", "flag", "", "Without changed files"),
    ("--ignore-static-ip", "flag", "", "With another IP address"),
    ("--ignore-static-mac", "flag", "", "With another MAC address"),
    ("--ignore-volumes", "flag", "", "Without volumes"),
    ("-i --import", "value", "PATH", "Read it from this archive"),
    ("--import-previous", "value", "PATH", "Read the pre-checkpoint from this archive"),
    ("-k --keep", "flag", "", "Keep temporary files"),
    common.LATEST,
    ("-n --name", "value", "NAME", "Name of the restored container"),
    ("--pod", "value", "POD", "Restore into this pod"),
    ("--print-stats", "flag", "", "Print how long it took"),
    ("-p --publish", "list", "PORT", "Publish a port"),
    ("--tcp-established", "flag", "", "With TCP connections"),
)
HELP = """Bring back a container from a checkpoint: not possible without root.

Checkpoints need CRIU, which needs CAP_CHECKPOINT_RESTORE in the host's own user namespace. This is here to say so.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.checkpoint import refuse

    if not options.get("import"):
        common.names(engine, options, arguments)
    refuse("restore")
