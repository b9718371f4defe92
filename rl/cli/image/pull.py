"""`rl pull`: images from a registry."""

from __future__ import annotations

import sys

from rl.cli import common, output
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all-tags", "flag", "", "Pull every tag of the repository"),
    ("--arch", "value", "ARCH", "Choose the image for this architecture instead of the machine's"),
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Certificates for this registry: *.crt, *.cert, *.key"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for the registry"),
    ("--disable-content-trust", "flag", "", "Changes nothing, in Podman as here: for Docker's scripts"),
    ("--os", "value", "OS", "Choose the image for this operating system"),
    ("--platform", "value", "OS/ARCH", "Choose the image for this platform"),
    ("--policy", "value", "POLICY", "When to pull (default always)", ("always", "missing", "never", "newer")),
    ("-q --quiet", "flag", "", "Show no progress"),
    ("--retry", "value", "N", "How often a failing transfer is repeated (default 3)", "uint"),
    ("--retry-delay", "value", "DURATION", "Pause before the first repetition (default 1s)"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate (default true)"),
    ("--userns", "value", "MODE", "Prepare the image for containers with this --userns: keep-id, nomap, auto"),
    ("--variant", "value", "VARIANT", "Choose the image for this variant of the architecture"),
)
HELP = "Pull images from a registry, or from an archive (docker-archive:, oci-archive:, oci:, dir:). Prints their ids."

_PASSED = ("all_tags", "arch", "authfile", "cert_dir", "os", "platform", "policy", "quiet", "retry", "tls_verify",
           "variant")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.pull import pull
    from rl.image.progress import choose as choose_progress

    if options.get("userns"):
        from rl.engine.prepare import check, prepare

        check(options["userns"])
    how = common.transfer(options, _PASSED)
    code = 0
    for name in arguments:
        progress = choose_progress(bool(options.get("quiet")))
        try:
            records = pull(engine, name, progress=progress, choose=_choose if _terminal() else None, **how)
        except RlError as error:
            if len(arguments) == 1:
                raise
            output.complain(error)
            code = error.exit_code
            continue
        finally:
            progress.close()
        if options.get("userns"):
            prepare(engine, records, options["userns"])
        for image in dict.fromkeys(record["id"] for record in records):
            output.write(image + "\n")
    return code


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _choose(candidates: list[str]) -> int:
    """Which registry a short name means: asked once, remembered by the engine."""
    sys.stderr.write("Please select an image:\n")
    for number, name in enumerate(candidates, 1):
        sys.stderr.write(f"  {number}) {name}\n")
    while True:
        answer = input("Number: ").strip()
        if answer.isdigit() and 1 <= int(answer) <= len(candidates):
            return int(answer) - 1
