"""`rl save`: images into an archive."""

from __future__ import annotations

import sys

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--compress", "flag", "", "Compress layers, with --format docker-dir"),
    ("--format", "value", "FORMAT", "docker-archive (default), oci-archive, oci-dir or docker-dir",
     ("docker-archive", "oci-archive", "oci-dir", "docker-dir")),
    ("-m --multi-image-archive", "flag", "", "Each argument is an image, not a name for the first"),
    ("-o --output", "value", "PATH", "Write to this file or directory instead of standard output"),
    ("-q --quiet", "flag", "", "Show no progress; there is none to be shown"),
    ("--uncompressed", "flag", "", "Leave layers uncompressed, with the OCI formats"),
)
HELP = "Save images to an archive that `rl load`, podman and docker read."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.save import save

    target: str | int = options.get("output", "")
    if not target:
        if sys.stdout.isatty():
            raise UsageError("refusing to save to terminal. Use -o flag or redirect",
                             "rl save -o FILE IMAGE, or rl save IMAGE > FILE")
        target = 1
    save(
        engine, arguments, target, format=options.get("format", "docker-archive"),
        multi=bool(options.get("multi_image_archive")), compress=bool(options.get("compress")),
        uncompressed=bool(options.get("uncompressed")),
    )
    return 0
