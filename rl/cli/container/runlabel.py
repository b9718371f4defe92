"""`rl container runlabel`: the command that a label of an image holds."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.engine.context import Engine

USAGE = "LABEL IMAGE [ARG...]"
ARGUMENTS = (2, None)
INTERSPERSED = False
COMPLETE = "image"
OPTIONS = (
    ("--authfile", "value", "PATH", "Credentials file for the pull (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Directory of TLS certificates for the registry"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for the registry"),
    ("--display", "flag", "", "Print the command, do not run it"),
    ("-n --name", "value", "NAME", "Name of the container, for NAME in the label"),
    ("-q --quiet", "flag", "", "Show no progress of the pull, and not the command"),
    ("--replace", "flag", "", "Remove the container that has this name first"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate for the pull (default true)"),
)
HELP = """Run the command that a label of an image holds: a command of podman, docker or rl, which rl runs itself.

In the label IMAGE and NAME stand for the image and the container; further arguments come after it.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.runlabel import runlabel

    pull = {key: options[key] for key in ("authfile", "cert_dir", "creds", "quiet", "tls_verify") if key in options}
    words = runlabel(
        engine, arguments[0], arguments[1], arguments[2:], name=options.get("name", ""),
        replace=bool(options.get("replace")), **pull,
    )
    line = "command: " + " ".join(["rl", *words])
    if options.get("display"):
        output.write(line + "\n")
        return 0
    if not options.get("quiet"):
        output.write(line + "\n")
    return _become(["-m", "rl", *_global_flags(engine), *words])


def _become(arguments: list[str]) -> NoReturn:
    import os
    import sys

    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])


def _global_flags(engine: Engine) -> list[str]:
    """The global flags of this call, for the next one."""
    return [f"--{key.replace('_', '-')}={value}" for key, value in engine.options.items() if value]
