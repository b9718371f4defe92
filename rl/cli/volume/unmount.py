"""`rl volume unmount`."""

from __future__ import annotations

from rl.cli import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME [VOLUME...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = ()
HELP = "Take down what `rl volume mount` mounted here; a volume that is not mounted is fine. Containers keep theirs."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.mount import unmount

    return common.report(unmount(engine, arguments))
