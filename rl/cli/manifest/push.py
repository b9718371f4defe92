"""`rl manifest push`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST [DESTINATION]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--all", "flag", "", "Push the images in the list, too (default true)"),
    ("--compression-format", "value", "KIND", "Compress plain layers with gzip (default) or another",
     ("gzip", "zstd", "zstd:chunked")),
    ("--compression-level", "value", "N", "From 1 (fast) to 9 with gzip, 22 with zstd", "uint"),
    ("--digestfile", "value", "PATH", "Write the digest of the pushed list to this file"),
    ("--force-compression", "flag", "", "Compress layers anew that have another compression"),
    ("-f --format", "value", "FORMAT", "Write manifests as oci or v2s2 (Docker's) instead of as they are",
     ("oci", "v2s2")),
    ("-q --quiet", "flag", "", "Show no progress"),
    ("--remove-signatures", "flag", "", "Leave signatures out; rl stores none with an image"),
    ("--rm", "flag", "", "Remove the list when it is pushed"),
    *CONNECTION,
)
HELP = "Push a manifest list and the images in it to a registry, by default to its own name."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import push
    from rl.image.form import Form
    from rl.image.progress import choose

    form = Form(
        options.get("format", ""), options.get("compression_format", ""), options.get("compression_level"),
        bool(options.get("force_compression")),
    )
    digest = push(
        engine, *arguments, all=options.get("all", True), form=form, rm=bool(options.get("rm")),
        progress=choose(bool(options.get("quiet"))), **registry(options),
    )
    if "digestfile" in options:
        output.to_file(options["digestfile"], digest)
    return 0
