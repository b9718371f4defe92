"""Signing images: rl push --sign-by, rl image sign. Signatures go to the lookaside storage that registries.d names.

Source: containers-signature(5); podman-image-sign(1).
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

from rl.config.jsonio import dumps
from rl.errors import NotFoundError, UnsupportedError, UsageError
from rl.image import documents as d
from rl.image import lookaside
from rl.runtime.userns import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.image.reference import Reference


def signature(key: str, name: Reference, digest: str, passphrase_file: str = "") -> bytes:
    """A simple signature by the GPG key *key* (a fingerprint, an address) of the manifest *digest* as *name*.

    Raises UnsupportedError without gpg, NotFoundError, RlError.
    """
    program = find_program("gpg")
    if not program:
        raise UnsupportedError("sign an image: gpg is not installed", "install package gnupg")
    payload = {
        "critical": {
            "identity": {"docker-reference": str(name.without_tag() if name.digest else name)},
            "image": {"docker-manifest-digest": digest}, "type": "atomic container signature",
        },
        "optional": {"creator": "rl", "timestamp": int(time.time())},
    }
    words = [program, "--batch", "--no-tty", "--local-user", key, "--output", "-"]
    if passphrase_file:
        words += ["--pinentry-mode", "loopback", "--passphrase-file", passphrase_file]
    words.append("--sign")
    done = subprocess.run(words, input=dumps(payload).encode(), capture_output=True, timeout=120, check=False)
    if done.returncode or not done.stdout:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("gpg:")]
        said = lines[-1].removeprefix("gpg: ") if lines else f"gpg ended with status {done.returncode}"
        raise NotFoundError(f"sign {name} with the key {key}: {said}", "gpg --list-secret-keys shows those there are")
    return done.stdout


def sign_pushed(paths: Paths, key: str, name: Reference, digest: str, passphrase_file: str = "") -> str:
    """Sign what was just pushed; where the signature is. Raises RlError."""
    return lookaside.Lookaside(paths).write(name, digest, signature(key, name, digest, passphrase_file))


def check_writable(paths: Paths, name: Reference) -> None:
    """Raises UnsupportedError before a push whose signature could not be written."""
    base = lookaside.Lookaside(paths).base(name, write=True)
    if not base.startswith("file://"):
        raise UnsupportedError(
            f"sign {name}: signatures would go to {base}, and only files can be written",
            "name a directory in registries.d: lookaside-staging: file:///DIR",
        )


def sign(
    engine: Engine, images: list[str], key: str, *, directory: str = "", all: bool = False, authfile: str = "",
    cert_dir: str = "",
) -> list[str]:
    """Sign images that registries have; the paths of the signatures. *all*: of a list every entry, too."""
    from rl.engine.manifest.lists import puller_for, reference_of

    if not key:
        raise UsageError("image sign: no key", "--sign-by FINGERPRINT")
    found = []
    for image in images:
        if not image.startswith("docker://"):
            raise UsageError(f"image sign {image}: not an image in a registry", f"write it as docker://{image}")
        name = reference_of(image)
        how: dict[str, Any] = {"authfile": authfile, "cert_dir": cert_dir}
        puller = puller_for(engine, how)
        try:
            data, digest = puller.document(name)
        finally:
            puller.close()
        digests = [digest]
        document = d.parse_document(data, f"the manifest of {image}")
        if all and d.media_type(document) in d.INDEXES:
            digests += [entry["digest"] for entry in d.parse_index(data, f"the index of {image}")["manifests"]]
        for one in digests:
            made = signature(key, name, one)
            if directory:
                found.append(lookaside.add(directory, name, one, made))
            else:
                found.append(lookaside.Lookaside(engine.paths).write(name, one, made))
    return found


def passphrase(path: str) -> str:
    """The file of --sign-passphrase-file, which has to be there. Raises NotFoundError."""
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise NotFoundError(f"--sign-passphrase-file {path}: {error.strerror}") from None
