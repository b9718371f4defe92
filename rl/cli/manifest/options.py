"""What the verbs about manifest lists share."""

from __future__ import annotations

from rl.cli import common
from rl.engine.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECTION = (
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Certificates for the registry: *.crt, *.cert, *.key"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for the registry"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate (default true)"),
)
PLATFORM = (
    ("--annotation", "array", "KEY=VALUE", "Add an annotation to the entry"),
    ("--arch", "value", "ARCH", "Architecture of the image, instead of what it says"),
    ("--features", "list", "FEATURE", "Features of the processor that the image needs"),
    ("--os", "value", "OS", "Operating system of the image, instead of what it says"),
    ("--os-version", "value", "VERSION", "Version of the operating system"),
    ("--variant", "value", "VARIANT", "Variant of the architecture"),
)
_CHANGES = ("arch", "os", "variant", "os_version", "features", "os_features")


def registry(options: dict[str, Any]) -> dict[str, Any]:
    """How registries are talked to."""
    return common.transfer(options, ("authfile", "cert_dir", "tls_verify"))


def pairs(options: dict[str, Any]) -> dict[str, str]:
    """--annotation. Raises UsageError."""
    return values.pairs(options.get("annotation", []), "--annotation", strict=True)


def changes(options: dict[str, Any]) -> dict[str, Any]:
    """What is to be said of an entry."""
    found = {key: options[key] for key in _CHANGES if key in options}
    annotations = pairs(options)
    return {**found, "annotation": annotations} if annotations else found
