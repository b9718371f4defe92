"""`rl artifact push`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME [DESTINATION]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
OPTIONS = (
    ("--digestfile", "value", "PATH", "Write the digest of the pushed manifest to this file"),
    ("-q --quiet", "flag", "", "Show no progress"),
    *CONNECTION,
)
HELP = "Push an artifact to a registry, by default to its own name, and print its digest."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import push
    from rl.image.progress import choose

    digest = push(engine, *arguments, progress=choose(bool(options.get("quiet"))), **registry(options))
    if "digestfile" in options:
        output.to_file(options["digestfile"], digest)
    output.write(digest + "\n")
    return 0
