"""Signatures of images: where they are, and whether they fulfil a requirement of policy.json.

- *simple signing* (``signedBy``): an OpenPGP message in a lookaside storage,
  ``BASE/REPOSITORY@sha256=HEX/signature-N``, by http, https or file; checked by gpg(1) with a home of its own, which
  holds the requirement's keys alone;
- *sigstore* (``sigstoreSigned``): an attachment in the registry itself, under the tag ``sha256-HEX.sig``, where
  registries.d says ``use-sigstore-attachments``; checked by openssl(1) with the requirement's public keys.

What is signed is the manifest of the one image that is used, not a list it was chosen from (as in containers/image). A
missing program, storage or key refuses the image.

Called by rl.image.pull. Source: containers-policy.json(5), containers-registries.d(5), containers-signature(5);
cosign's signature specification.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import subprocess
import tempfile
from typing import Any

from rl.config.jsonio import loads
from rl.errors import NoSuchImageError, RegistryError, RlError, VerificationError
from rl.image import documents as d
from rl.image import reference
from rl.image.lookaside import Lookaside
from rl.runtime.userns import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.image.policy import Requirement
    from rl.image.reference import Reference
    from rl.image.registry import Repository

_SIMPLE = "atomic container signature"
_COSIGN = "cosign container image signature"
_COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
_COSIGN_ANNOTATION = "dev.cosignproject.cosign/signature"
_LARGEST = 4 << 20
_BAD = frozenset(("EXPKEYSIG", "REVKEYSIG", "EXPSIG", "BADSIG", "ERRSIG"))  # of gpg's status lines
_MOST = 128  # signatures of one image that are looked at


def check(paths: Paths, requirement: Requirement, name: Reference, digest: str, repository: Repository) -> None:
    """Raises VerificationError unless a signature of the manifest *digest* fulfils *requirement*."""
    if requirement.kind == "signedBy":
        found = Lookaside(paths).signatures(name, digest, _MOST)
        problems = [_simple(requirement, name, digest, signature) for signature in found]
    elif requirement.kind == "sigstoreSigned":
        if not Lookaside(paths).attachments(name):
            raise _refused(requirement, name, "registries.d does not say use-sigstore-attachments: true for it")
        pairs = _attached(repository, digest)
        problems = [_sigstore(requirement, name, digest, payload, signature) for payload, signature in pairs]
    else:
        raise _refused(requirement, name, f"{requirement.kind} is not supported, by Podman either")
    if not problems:
        raise _refused(requirement, name, "a signature was required, but no signature exists")
    if all(problems):
        raise _refused(requirement, name, "; ".join(dict.fromkeys(problems)))


def _refused(requirement: Requirement, name: Reference, why: str) -> VerificationError:
    return VerificationError(
        f"{name}: not signed as the policy wants ({requirement.kind}, {requirement.place}): {why}",
        "ask its owner for a signed image; rl image trust show tells what is accepted",
    )


# --------------------------------------------------------------------------- what is signed


def _payload(data: bytes, kind: str) -> tuple[str, str]:
    """(docker reference, manifest digest) of a payload, read strictly. Raises ValueError."""
    document = loads(data.decode())
    if not isinstance(document, dict) or set(document) - {"critical", "optional"} or "critical" not in document:
        raise ValueError("its payload has other members than critical and optional")
    critical = document["critical"]
    if not isinstance(critical, dict) or set(critical) != {"identity", "image", "type"}:
        raise ValueError("its critical part has not exactly identity, image and type")
    if critical["type"] != kind:
        raise ValueError(f"it is of type {critical['type']!r}")
    identity, image = critical["identity"], critical["image"]
    if not isinstance(identity, dict) or set(identity) != {"docker-reference"}:
        raise ValueError("its identity is not just a docker-reference")
    if not isinstance(image, dict) or set(image) != {"docker-manifest-digest"}:
        raise ValueError("its image is not just a docker-manifest-digest")
    if not isinstance(document.get("optional") or {}, dict):
        raise ValueError("its optional part is not an object")
    signed, digest = identity["docker-reference"], image["docker-manifest-digest"]
    if not isinstance(signed, str) or not isinstance(digest, str):
        raise ValueError("its identity or its digest is not a string")
    return signed, digest


def _fits(requirement: Requirement, name: Reference, digest: str, data: bytes, kind: str) -> str:
    """"" where a payload speaks of the image; else why it does not."""
    try:
        signed, signed_digest = _payload(data, kind)
    except (ValueError, RecursionError) as error:
        return f"a signature is not well formed: {error}"
    if signed_digest != digest:
        return f"a signature is for another manifest, {signed_digest}"
    try:
        good = matches(requirement.identity, name, signed)
    except RlError as error:
        return f"a signature is for {signed!r}: {error.message}"
    return "" if good else f"a signature is for {signed}"


def matches(identity: dict[str, Any], name: Reference, signed: str) -> bool:
    """Whether the name *signed* in a signature is what ``signedIdentity`` wants for the image *name*."""
    kind = identity.get("type", "matchRepoDigestOrExact")
    other = reference.parse(reference.normalize(signed, reference.DOCKER))
    wanted = name.with_default_tag()
    if kind == "exactReference":
        return bool(str(other) == identity["dockerReference"])
    if kind == "exactRepository":
        return bool(other.name == identity["dockerRepository"])
    if kind == "remapIdentity":
        mapped = _mapped(wanted.name, identity["prefix"], identity["signedPrefix"])
        return _repository_or_exact(wanted, mapped, other)
    if kind == "matchRepository":
        return other.name == wanted.name
    if kind == "matchExact":
        return not wanted.digest and str(other) == str(wanted)
    return _repository_or_exact(wanted, wanted.name, other)


def _mapped(name: str, prefix: str, signed: str) -> str:
    if name == prefix or name.startswith(prefix.rstrip("/") + "/"):
        return signed + name[len(prefix):]
    return name


def _repository_or_exact(wanted: Reference, name: str, other: Reference) -> bool:
    """By digest the repository has to be the same, else the tag, too."""
    if other.name != name:
        return False
    return bool(wanted.digest) or (bool(other.tag) and other.tag == wanted.tag)


# --------------------------------------------------------------------------- OpenPGP


def _simple(requirement: Requirement, name: Reference, digest: str, signature: bytes) -> str:
    """"" for a good signature; else what is wrong with it."""
    program = find_program("gpg")
    if not program:
        raise _refused(requirement, name, "gpg, which checks signatures, is not installed: install package gnupg")
    home = tempfile.mkdtemp(prefix="rl-gpg-")
    try:
        known = _import(program, home, requirement)
        done = _gpg(program, home, ["--status-fd", "2", "--decrypt"], signature)
        status = [line.split() for line in done.stderr.decode(errors="replace").splitlines() if "[GNUPG:]" in line]
        words = {line[1] for line in status if len(line) > 1}
        valid = [line for line in status if line[1:2] == ["VALIDSIG"]]
        if len(valid) != 1 or words & _BAD or "GOODSIG" not in words:
            return "a signature is of another key, expired, or broken"
        if valid[0][2] not in known and valid[0][-1] not in known:
            return f"a signature is of the key {valid[0][2]}, which is not accepted"
        return _fits(requirement, name, digest, done.stdout, _SIMPLE)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def _import(program: str, home: str, requirement: Requirement) -> set[str]:
    """Put the requirement's keys into the new *home*; their fingerprints."""
    for data in requirement.public_keys():
        _gpg(program, home, ["--import"], data)
    listed = _gpg(program, home, ["--with-colons", "--fingerprint", "--fingerprint", "--list-keys"], b"")
    lines = [line.split(":") for line in listed.stdout.decode(errors="replace").splitlines()]
    return {line[9] for line in lines if line[0] == "fpr" and len(line) > 9}


def _gpg(program: str, home: str, words: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [program, "--homedir", home, "--batch", "--no-tty", "--no-auto-key-retrieve", "--no-options",
               "--trust-model", "always", *words]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)


# --------------------------------------------------------------------------- sigstore


def _attached(repository: Repository, digest: str) -> list[tuple[bytes, bytes]]:
    """(payload, signature) of all that is attached to the manifest *digest*."""
    try:
        data, _ = repository.manifest(f"{digest.replace(':', '-')}.sig")
    except NoSuchImageError:
        return []
    found = []
    for layer in d.parse_manifest(data, "the attached signatures")["layers"][:_MOST]:
        signature = (layer.get("annotations") or {}).get(_COSIGN_ANNOTATION)
        if layer.get("mediaType") != _COSIGN_LAYER or not isinstance(signature, str) or layer["size"] > _LARGEST:
            continue
        try:
            payload = repository.small_blob(layer["digest"], layer["size"])
            found.append((payload, base64.b64decode(signature, validate=True)))
        except (binascii.Error, RegistryError):
            continue
    return found


def _sigstore(requirement: Requirement, name: Reference, digest: str, payload: bytes, signature: bytes) -> str:
    program = find_program("openssl")
    if not program:
        raise _refused(requirement, name, "openssl, which checks signatures, is not installed: install package openssl")
    directory = tempfile.mkdtemp(prefix="rl-sigstore-")
    try:
        files = {}
        for file, data in (("payload", payload), ("signature", signature)):
            files[file] = f"{directory}/{file}"
            with open(files[file], "wb") as stream:
                stream.write(data)
        for number, key in enumerate(requirement.public_keys()):
            path = f"{directory}/key-{number}"
            with open(path, "wb") as stream:
                stream.write(key)
            if _openssl(program, path, files["payload"], files["signature"]):
                return _fits(requirement, name, digest, payload, _COSIGN)
        return "a signature is of another key, or broken"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _openssl(program: str, key: str, payload: str, signature: str) -> bool:
    """ECDSA and RSA (PKCS #1 1.5) with SHA-256; Ed25519."""
    for command in (
        [program, "dgst", "-sha256", "-verify", key, "-signature", signature, payload],
        [program, "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", payload, "-sigfile", signature],
    ):
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
        if done.returncode == 0 and b"Verified" in done.stdout.replace(b"Verified OK", b"Verified").replace(
            b"Signature Verified", b"Verified"
        ):
            return True
    return False


def key_file(path: str) -> bytes:
    """The public keys in a file of a requirement. Raises RlError."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise RlError(f"read the key {path} of the policy: {error.strerror}", "correct policy.json") from None
