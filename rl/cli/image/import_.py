"""`rl import`: an image from an archive of a file system."""

from __future__ import annotations

import sys

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "PATH [NAME]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "file"
OPTIONS = (
    ("--arch", "value", "ARCH", "Architecture of the image (default the machine's)"),
    ("-c --change", "array", "INSTRUCTION", "Apply CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, "
     "VOLUME or WORKDIR"),
    ("-m --message", "value", "TEXT", "Comment of the image"),
    ("--os", "value", "OS", "Operating system of the image"),
    ("-q --quiet", "flag", "", "Print nothing but the id"),
    ("--variant", "value", "VARIANT", "Variant of the architecture"),
)
HELP = "Make an image of a tar archive: a file, an http(s) address, or - for standard input. Prints its id."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.import_ import import_

    if not options.get("quiet") and arguments[0] == "-" and sys.stdin.isatty():
        sys.stderr.write("Reading an archive from the terminal; end with ctrl-d\n")
    image = import_(
        engine, arguments[0], arguments[1] if len(arguments) > 1 else "", changes=options.get("change"),
        message=options.get("message", ""), os_=options.get("os", ""), arch=options.get("arch", ""),
        variant=options.get("variant", ""),
    )
    output.write(f"sha256:{image}\n")
    return 0
