"""policy.json: which images may enter at all. Called by whoever fetches or loads an image.

:func:`check` refuses what is rejected outright, before anything is fetched, and tells which signatures are wanted;
rl.image.signatures checks them when the manifest is known. What comes from a file or a directory has none.

Source: containers-policy.json(5). As there, the file is read strictly: what is not understood is an error.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.errors import RlError, UnsupportedError, VerificationError

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


class Requirement:
    """One that wants a signature. ``kind``: its type; ``place``: where the policy has it; ``identity``: whose."""

    __slots__ = ("_member", "identity", "kind", "place")

    def __init__(self, member: dict[str, Any], place: str) -> None:
        self._member = member
        self.kind: str = member["type"]
        self.place = place
        self.identity: dict[str, Any] = member.get("signedIdentity") or {"type": "matchRepoDigestOrExact"}

    def public_keys(self) -> list[bytes]:
        """The public keys, as they are in files or in the policy. Raises RlError."""
        import base64

        from rl.image.signatures import key_file

        found = []
        for name in ("keyData", "keyDatas"):
            value = self._member.get(name) or []
            found += [base64.b64decode(text) for text in ([value] if isinstance(value, str) else value)]
        for name in ("keyPath", "keyPaths"):
            value = self._member.get(name) or []
            found += [key_file(path) for path in ([value] if isinstance(value, str) else value)]
        return found


def check_reference(paths: Paths, wanted: Reference, system: str = SYSTEM) -> list[Requirement]:
    """May this image be pulled? Raises VerificationError where the policy says no, RlError for a broken file.

    The signatures that it has to have.
    """
    return check(paths, "docker", docker_scopes(wanted), str(wanted), system)


def check_unsigned(paths: Paths, transport: str, scopes: list[str], what: str, system: str = SYSTEM) -> None:
    """The same for what comes without signatures: one that is wanted refuses it."""
    for requirement in check(paths, transport, scopes, what, system):
        raise VerificationError(
            f"{what}: the policy wants a signature ({requirement.kind}, {requirement.place}); {transport}: has none",
            f"pull it from a registry, or change the requirement in {file_of(paths, system)}",
        )


def file_of(paths: Paths, system: str = SYSTEM) -> str:
    """The policy that counts: the user's own, else the system's."""
    path = f"{paths.config}/policy.json"
    return path if os.path.exists(path) else system


def check(paths: Paths, transport: str, scopes: list[str], what: str, system: str = SYSTEM) -> list[Requirement]:
    """Apply the requirements of the first scope in *scopes* (narrowest first) that the policy has."""
    path = file_of(paths, system)
    if not os.path.exists(path):
        return []
    document = read(path)
    table = document.get("transports", {}).get(transport, {})
    scope = next((scope for scope in [*scopes, ""] if scope in table), None)
    requirements = document["default"] if scope is None else table[scope]
    place = f"default of {path}" if scope is None else f"{transport}:{scope or '(default)'} in {path}"
    wanted = []
    for requirement in requirements:
        kind = requirement["type"]
        if kind == "reject":
            raise VerificationError(
                f"{what}: rejected by policy ({place})",
                f"use an image that it accepts, or change {path} if it is yours",
            )
        if kind != "insecureAcceptAnything":
            wanted.append(Requirement(requirement, place))
    return wanted


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


def read(path: str) -> dict[str, Any]:
    """The policy in a file, checked. Raises RlError."""
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
        if kind in _KEYS:
            _check_keys(requirement, where, path)


#: Members of which a requirement has exactly one.
_KEYS = {
    "signedBy": ("keyPath", "keyPaths", "keyData"),
    "sigstoreSigned": ("keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"),
}
_IDENTITIES: dict[str, tuple[str, ...]] = {
    "matchExact": (), "matchRepoDigestOrExact": (), "matchRepository": (), "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",), "remapIdentity": ("prefix", "signedPrefix"),
}


def _check_keys(requirement: dict[str, Any], where: str, path: str) -> None:
    kind = requirement["type"]
    given = [name for name in _KEYS[kind] if name in requirement]
    if len(given) != 1:
        raise _wrong(path, f"{where}: {kind} needs exactly one of {', '.join(_KEYS[kind])}")
    value = requirement[given[0]]
    if given[0] in ("fulcio", "pki") or any(name.startswith("rekor") for name in requirement):
        raise UnsupportedError(
            f"policy {path}: {where}: {kind} with Fulcio, Rekor or a PKI is not supported",
            "rl checks sigstore signatures by public keys: keyPath or keyData",
        )
    many = given[0] in ("keyPaths", "keyDatas")
    texts = value if many and isinstance(value, list) else [value]
    if not texts or (many and not isinstance(value, list)) or not all(isinstance(text, str) and text for text in texts):
        raise _wrong(path, f"{where}: {given[0]} is not {'a list of' if many else 'a'} text")
    if given[0].startswith("keyData"):
        _check_base64(texts, where, path)
    if kind == "signedBy" and requirement.get("keyType") != "GPGKeys":
        raise _wrong(path, f"{where}: keyType is not GPGKeys")
    identity = requirement.get("signedIdentity", {"type": "matchExact"})
    form = identity.get("type") if isinstance(identity, dict) else None
    members = _IDENTITIES.get(form) if isinstance(form, str) else None
    if members is None or set(identity) != {"type", *members} or not all(isinstance(v, str) for v in identity.values()):
        raise _wrong(path, f"{where}: signedIdentity is not one of containers-policy.json(5)")


def _check_base64(texts: list[str], where: str, path: str) -> None:
    import base64
    import binascii

    try:
        for text in texts:
            base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(path, f"{where}: a key is not base64") from None


def _wrong(path: str, why: str) -> RlError:
    return RlError(f"policy {path} is invalid: {why}", "correct that file; containers-policy.json(5) has the syntax")
