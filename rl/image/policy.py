"""policy.json: which images may enter at all. Called by whoever fetches or loads an image.

rl verifies digests, not signatures: a requirement that needs a signature refuses the image, with a message that
says so, rather than let it pass unchecked.

Source: containers-policy.json(5). As there, the file is read strictly: what is not understood is an error.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.errors import RlError, VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.paths import Paths
    from rl.image.reference import Reference

SYSTEM = "/etc/containers/policy.json"
#: The requirements that exist, and their members besides "type".
_MEMBERS: dict[str, frozenset[str]] = {
    "insecureAcceptAnything": frozenset(),
    "reject": frozenset(),
    "signedBy": frozenset({"keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"}),
    "signedBaseLayer": frozenset({"baseLayerIdentity"}),
    "sigstoreSigned": frozenset(
        {
            "keyPath",
            "keyPaths",
            "keyData",
            "keyDatas",
            "fulcio",
            "pki",
            "rekorPublicKeyPath",
            "rekorPublicKeyPaths",
            "rekorPublicKeyData",
            "rekorPublicKeyDatas",
            "signedIdentity",
        }
    ),
}


def check_reference(paths: Paths, wanted: Reference, system: str = SYSTEM) -> None:
    """May this image be pulled? Raises VerificationError where the policy says no, RlError for a broken file."""
    check(paths, "docker", docker_scopes(wanted), str(wanted), system)


def check(paths: Paths, transport: str, scopes: list[str], what: str, system: str = SYSTEM) -> None:
    """Apply the requirements of the first scope in *scopes* (narrowest first) that the policy has."""
    path = f"{paths.config}/policy.json"
    if not os.path.exists(path):
        path = system
        if not os.path.exists(path):
            return
    document = _read(path)
    table = document.get("transports", {}).get(transport, {})
    scope = next((scope for scope in [*scopes, ""] if scope in table), None)
    requirements = document["default"] if scope is None else table[scope]
    place = f"default of {path}" if scope is None else f"{transport}:{scope or '(default)'} in {path}"
    for requirement in requirements:
        kind = requirement["type"]
        if kind == "reject":
            raise VerificationError(
                f"{what}: rejected by policy ({place})",
                f"use an image that it accepts, or change {path} if it is yours",
            )
        if kind != "insecureAcceptAnything":
            raise VerificationError(
                f"{what}: the policy wants a signature ({kind}, {place}), and rl cannot verify signatures",
                "verify it with a tool that can (skopeo copy docker://… oci:…) and load the result, or change"
                f" the requirement in {path}",
            )


def docker_scopes(wanted: Reference) -> list[str]:
    """The scopes of a full name, narrowest first: image, repository, namespaces, registry, wildcards."""
    full = wanted.with_default_tag()
    scopes = [str(full.without_tag() if full.digest else full)]
    name = full.name
    while name:
        scopes.append(name)
        name = name.rpartition("/")[0]
    domain = full.registry.partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        scopes.append(f"*.{domain}")
    return scopes


def path_scopes(path: str) -> list[str]:
    """The scopes of a file or directory (transports dir, oci): itself and its parents."""
    path = os.path.realpath(path)
    scopes = []
    while path != "/":
        scopes.append(path)
        path = os.path.dirname(path)
    return scopes


def _read(path: str) -> dict[str, Any]:
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise RlError(f"read policy {path}: {text}", "correct that file: without it no image is accepted") from None
    if not isinstance(document, dict) or not set(document) <= {"default", "transports"}:
        raise _wrong(path, "it may have the members default and transports only")
    transports = document.get("transports", {})
    if not isinstance(transports, dict) or not all(isinstance(table, dict) for table in transports.values()):
        raise _wrong(path, "transports is not an object of objects")
    _check_requirements(document.get("default"), "default", path)
    for transport, table in transports.items():
        for scope, requirements in table.items():
            _check_requirements(requirements, f"{transport}:{scope}", path)
    return document


def _check_requirements(requirements: Any, where: str, path: str) -> None:
    if not isinstance(requirements, list) or not requirements:
        raise _wrong(path, f"{where} is not a list of at least one requirement")
    for requirement in requirements:
        kind = requirement.get("type") if isinstance(requirement, dict) else None
        if not isinstance(kind, str) or kind not in _MEMBERS:
            raise _wrong(path, f"{where}: {kind!r} is not a type of requirement")
        unknown = set(requirement) - {"type"} - _MEMBERS[kind]
        if unknown:
            raise _wrong(path, f"{where}: {kind} has no member {sorted(unknown)[0]!r}")


def _wrong(path: str, why: str) -> RlError:
    return RlError(f"policy {path} is invalid: {why}", "correct that file; containers-policy.json(5) has the syntax")
