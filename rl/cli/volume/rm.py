"""`rl volume rm`."""

from __future__ import annotations

from rl.cli import common
from rl.errors import NoSuchVolumeError, UsageError, VolumeInUseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME [VOLUME...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = (
    ("-a --all", "flag", "", "Remove all volumes"),
    ("-f --force", "flag", "", "Remove the containers that use a volume first; a missing volume is no error"),
    ("-t --time --timeout", "value", "SECONDS", "With --force, seconds before running containers are killed", "int"),
)
HELP = """Remove volumes, named in full or by an unambiguous beginning.

Exit codes: 0 all removed, 1 one did not exist, 2 one is used by a container, 125 anything else.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.rm import rm

    if "time" in options and not options.get("force"):
        raise UsageError("--force option must be specified to use the --time option", "add --force")
    results = rm(
        engine, arguments, all=bool(options.get("all")), force=bool(options.get("force")), time=options.get("time")
    )
    common.report(results)
    kinds = {_code(error) for _, error in results if error is not None}
    return max(kinds) if kinds else 0


def _code(error: Exception) -> int:
    """podman-volume-rm(1), "Exit Status"; the greatest of several is the one told."""
    return 1 if isinstance(error, NoSuchVolumeError) else 2 if isinstance(error, VolumeInUseError) else 125
