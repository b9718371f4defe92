"""`rl version`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (("-f --format", "value", "FORMAT", "json, or a Go template"),)
HELP = "Show versions."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.version import version

    found = version(engine)
    if options.get("format"):
        output.print_one(options["format"], found)
        return 0
    client = found.get("Client", found)
    output.write("".join([f"{_label(key) + ':':<14}{value}\n" for key, value in client.items() if value != ""]))
    return 0


_LABELS = {"APIVersion": "API Version", "GoVersion": "Go Version", "OsArch": "OS/Arch", "GitCommit": "Git Commit"}


def _label(key: str) -> str:
    return _LABELS.get(key, key)
