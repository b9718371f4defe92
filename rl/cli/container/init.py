"""`rl init`: prepare containers up to the start of their command."""

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
    ("-a --all", "flag", "", "Initialize all containers that do not run"),
    common.LATEST,
)
HELP = """Initialize containers: file systems, network and process are made, the command waits for `rl start`.

What is wrong shows here, and the process id, the mounts and the OCI configuration can be looked at before it runs.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.init import init

    return common.report(init(engine, common.names(engine, options, arguments), all=bool(options.get("all"))))
