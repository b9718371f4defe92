"""`rl container checkpoint`: refused, with the reason."""

from __future__ import annotations

from rl.cli import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Checkpoint all running containers"),
    ("-c --compress", "value", "NAME", "Compression of the archive", ("gzip", "none", "zstd")),
    ("--create-image", "value", "NAME", "Make an image of it"),
    ("-e --export", "value", "PATH", "Write it to this archive"),
    ("--file-locks", "flag", "", "With file locks"),
    ("--ignore-rootfs", "flag", "", "Without changed files"),
    ("--ignore-volumes", "flag", "", "Without volumes"),
    ("-k --keep", "flag", "", "Keep temporary files"),
    common.LATEST,
    ("-R --leave-running", "flag", "", "Let the container go on"),
    ("-P --pre-checkpoint", "flag", "", "Only the memory"),
    ("--print-stats", "flag", "", "Print how long it took"),
    ("--tcp-established", "flag", "", "With TCP connections"),
    ("--with-previous", "flag", "", "On top of a pre-checkpoint"),
)
HELP = """Write a running container's memory to disk: not possible without root.

Checkpoints need CRIU, which needs CAP_CHECKPOINT_RESTORE in the host's own user namespace. This is here to say so.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.checkpoint import refuse

    common.names(engine, options, arguments)
    refuse("checkpoint")
