"""`rl image sign`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all", "flag", "", "Of a manifest list, sign the images in it, too"),
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Certificates for the registry: *.crt, *.cert, *.key"),
    ("-d --directory", "value", "DIR", "Write signatures here instead of where registries.d says"),
    ("--sign-by", "value", "KEY", "The GPG key: a fingerprint, or the address of its owner"),
)
HELP = "Sign images that are in registries (docker://NAME), and print where the signatures are."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.signing import sign

    found = sign(
        engine, arguments, options.get("sign_by", ""), directory=options.get("directory", ""),
        all=bool(options.get("all")), authfile=options.get("authfile", ""), cert_dir=options.get("cert_dir", ""),
    )
    output.write("".join(path + "\n" for path in found))
    return 0
