"""`rl push`: an image to a registry."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [DESTINATION]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Certificates for this registry: *.crt, *.cert, *.key"),
    ("--compress", "flag", "", "Compress plain layers on the way to a dir: directory, too"),
    ("--compression-format --compression", "value", "KIND", "Compress plain layers with gzip (default) or another",
     ("gzip", "zstd", "zstd:chunked")),
    ("--compression-level", "value", "N", "From 1 (fast) to 9 with gzip, 22 with zstd", "uint"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for the registry"),
    ("--digestfile", "value", "PATH", "Write the digest of the pushed manifest to this file"),
    ("--disable-content-trust", "flag", "", "Changes nothing, in Podman as here: for Docker's scripts"),
    ("--force-compression", "flag", "", "Compress layers anew that have another compression"),
    ("-f --format", "value", "FORMAT", "Write the manifest as oci or v2s2 (Docker's) instead of as it is",
     ("oci", "v2s2")),
    ("-q --quiet", "flag", "", "Show no progress"),
    ("--remove-signatures", "flag", "", "Leave signatures out; rl stores none with an image"),
    ("--retry", "value", "N", "How often a failing transfer is repeated (default 3)", "uint"),
    ("--retry-delay", "value", "DURATION", "Pause before the first repetition (default 1s)"),
    ("--sign-by", "value", "KEY", "Sign it with this GPG key; registries.d says where signatures go"),
    ("--sign-passphrase-file", "value", "PATH", "Read the passphrase of the key from this file"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate (default true)"),
)
HELP = "Push an image to a registry, or to docker-archive:, oci-archive:, oci:, dir: on this machine."

_PASSED = ("authfile", "cert_dir", "retry", "tls_verify")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.push import push
    from rl.image.form import Form
    from rl.image.progress import choose

    how = common.transfer(options, _PASSED)
    form = Form(
        options.get("format", ""), options.get("compression_format", ""), options.get("compression_level"),
        bool(options.get("force_compression")),
    )
    digestfile = options.get("digestfile", "")
    if digestfile and arguments[-1].startswith("docker-archive:"):
        raise UsageError("push: a docker-archive has no manifest, so no digest", "leave --digestfile out")
    progress = choose(bool(options.get("quiet")))
    digest = push(
        engine, *arguments, form=form, compress=bool(options.get("compress")), progress=progress,
        sign_by=options.get("sign_by", ""), passphrase_file=options.get("sign_passphrase_file", ""), **how,
    )
    if digestfile:
        output.to_file(digestfile, digest)
    return 0
