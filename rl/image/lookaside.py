"""registries.d: where the signatures of a registry's images are kept, for reading and for writing.

Called by rl.image.signatures and rl.engine.signing. Source: containers-registries.d(5).
"""

from __future__ import annotations

import os
import urllib.parse
from typing import Any

from rl.errors import RlError, UnsupportedError
from rl.image.policy import docker_scopes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.image.reference import Reference

SYSTEM = "/etc/containers/registries.d"
_LARGEST = 4 << 20
_TIMEOUT = 30  # seconds


class Lookaside:
    """The configuration of this user. Raises RlError for a file that is wrong."""

    def __init__(self, paths: Paths, system: str = SYSTEM) -> None:
        own = f"{paths.config}/registries.d"
        self.directory = own if os.path.isdir(own) else system
        self._default: dict[str, Any] = {}
        self._scopes: dict[str, dict[str, Any]] = {}
        self._home = os.path.expanduser("~/.local/share/containers/sigstore")
        if os.geteuid() == 0 and self._home.startswith("/root/"):
            self._home = "/var/lib/containers/sigstore"
        if os.path.isdir(self.directory):
            for name in sorted(os.listdir(self.directory)):
                if name.endswith(".yaml"):
                    self._read(f"{self.directory}/{name}")

    def _read(self, path: str) -> None:
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                document = yaml.safe_load(file) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            text = str(error).replace("\n", " ")
            raise RlError(f"read {path}: {text}", "correct that file") from None
        docker = document.get("docker") if isinstance(document, dict) else None
        default = document.get("default-docker") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(docker or {}, dict) or not isinstance(default or {}, dict):
            raise RlError(f"read {path}: it is not as containers-registries.d(5) says", "correct that file")
        self._default = default or self._default
        for scope, value in (docker or {}).items():
            if not isinstance(value, dict):
                raise RlError(f"read {path}: docker: {scope} is not a mapping", "correct that file")
            self._scopes[scope] = value

    def of(self, name: Reference) -> dict[str, Any]:
        """What is configured for an image: of its narrowest scope."""
        return self._first(docker_scopes(name))

    def of_scope(self, scope: str) -> dict[str, Any]:
        """The same for a scope of a policy: a registry, a namespace, a repository."""
        parts = scope.split("/")
        return self._first(["/".join(parts[:count]) for count in range(len(parts), 0, -1)])

    def _first(self, scopes: list[str]) -> dict[str, Any]:
        return next((self._scopes[scope] for scope in scopes if scope in self._scopes), self._default)

    def attachments(self, name: Reference) -> bool:
        """Whether sigstore signatures in the registry count."""
        for scope in docker_scopes(name):
            if "use-sigstore-attachments" in self._scopes.get(scope, {}):
                return bool(self._scopes[scope]["use-sigstore-attachments"])
        return bool(self._default.get("use-sigstore-attachments"))

    def base(self, name: Reference, *, write: bool = False) -> str:
        """The URL below which signatures are."""
        found = self.of(name)
        keys = ("lookaside-staging", "sigstore-staging") if write else ()
        for key in (*keys, "lookaside", "sigstore"):
            if found.get(key):
                return str(found[key])
        return f"file://{self._home}"

    def signatures(self, name: Reference, digest: str, most: int) -> list[bytes]:
        """All simple signatures of the manifest *digest*, in order. Raises RlError where the storage fails."""
        found = []
        for number in range(1, most + 1):
            data = _get(f"{self.base(name).rstrip('/')}/{place(name, digest)}/signature-{number}")
            if data is None:
                break
            found.append(data)
        return found

    def write(self, name: Reference, digest: str, signature: bytes) -> str:
        """Add a signature to the storage for writing; its path. Raises UnsupportedError, RlError."""
        base = self.base(name, write=True)
        parts = urllib.parse.urlsplit(base)
        if parts.scheme != "file":
            raise UnsupportedError(
                f"write a signature of {name} to {base}: only files can be written",
                f"name a directory in {self.directory}: lookaside-staging: file:///DIR",
            )
        return add(urllib.parse.unquote(parts.path), name, digest, signature)


def place(name: Reference, digest: str) -> str:
    """Where below the base the signatures of a manifest are."""
    return f"{name.repository}@{digest.replace(':', '=')}"


def add(directory: str, name: Reference, digest: str, signature: bytes) -> str:
    """Write *signature* under the first free number below *directory*; its path. Raises RlError."""
    target = f"{directory.rstrip('/')}/{place(name, digest)}"
    try:
        os.makedirs(target, exist_ok=True)
        for number in range(1, 1000):
            path = f"{target}/signature-{number}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                with open(path, "rb") as file:
                    if file.read(len(signature) + 1) == signature:
                        return path
                continue
            with open(fd, "wb") as file:
                file.write(signature)
            return path
    except OSError as error:
        what = f"write a signature to {target}: {error.strerror}"
        raise RlError(what, "choose a directory you may write to") from None
    raise RlError(f"write a signature to {target}: it has a thousand already")


def _get(url: str) -> bytes | None:
    """What is at *url*; None where nothing is. Raises RlError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        try:
            with open(urllib.parse.unquote(parts.path), "rb") as file:
                return file.read(_LARGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RlError(f"read {url}: {error.strerror}") from None
    if parts.scheme not in ("http", "https"):
        raise RlError(f"signatures at {url}: not a URL of file, http or https", "correct registries.d")
    import http.client
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=_TIMEOUT) as response:
            data: bytes = response.read(_LARGEST)
            return data
    except HTTPError as error:
        error.close()
        if error.code in (403, 404):
            return None
        raise RlError(f"read {url}: the server answers {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RlError(f"read {url}: {getattr(error, 'reason', error)}") from None
