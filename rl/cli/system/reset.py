"""`rl system reset`."""

from __future__ import annotations

from rl.cli import confirm
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (("-f --force", "flag", "", "Do not ask"),)
HELP = """Remove all containers, running or not, all images, volumes and secrets, and rl's directories themselves.

Configuration in $XDG_CONFIG_HOME/containers and logins stay.
"""


class _EndOfInput(RlError):
    """As Podman: no answer is told by exit code 1."""

    exit_code = 1


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.reset import reset

    if not options.get("force"):
        what = ("containers", "pods", "images", "networks", "build cache", "volumes", "secrets")
        lines = [f"all {kind}" for kind in what]
        lines += [f'the graphRoot directory: "{engine.paths.data}"', f'the runRoot directory: "{engine.paths.run}"']
        try:
            if not confirm.confirmed("WARNING! This will remove:\n" + "".join(f"        - {line}\n" for line in lines)):
                return 0
        except RlError as error:
            raise _EndOfInput(error.message, error.hint) from None
    for path in reset(engine):
        engine.warn(f"{path} is not rl's and stays")
    return 0
