"""`rl load`: images from an archive."""

from __future__ import annotations

import sys

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-i --input", "value", "PATH", "Read this file or directory instead of standard input"),
    ("-q --quiet", "flag", "", "No progress, only the names of what was loaded"),
)
HELP = "Load images from a docker-archive, oci-archive, OCI layout or directory, compressed or not."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.load import load

    source: str | int = options.get("input", "")
    if not source:
        if sys.stdin.isatty():
            raise UsageError("cannot read from terminal, use command-line redirection or the --input flag",
                             "rl load -i FILE, or rl load < FILE")
        source = 0
    if not options.get("quiet"):
        sys.stderr.write(f"Reading images from {source or 'standard input'}...\n")
        sys.stderr.flush()
    names = load(engine, source)
    output.write("".join([f"Loaded image: {name}\n" for name in names]))
    return 0
