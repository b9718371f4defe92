"""TLS settings per registry: the system's authorities, plus what ``certs.d`` holds for this host.

``HOST:PORT/*.crt`` are further authorities, ``NAME.cert`` with ``NAME.key`` a client certificate. Called by
rl.image.transport.

Source: containers-certs.d(5).
"""

from __future__ import annotations

import os
import ssl
import threading

from rl.errors import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths


class Certificates:
    """Contexts by host and port; *cert_dir* (``--cert-dir``) replaces the directories of the system."""

    def __init__(self, paths: Paths, cert_dir: str = "") -> None:
        self._cert_dir = cert_dir
        self._roots = (f"{paths.config}/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d")
        self._contexts: dict[tuple[str, int, bool], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, host: str, port: int, verify: bool) -> ssl.SSLContext:
        """The context for one server. Raises RegistryError for a file in certs.d that cannot be used."""
        with self._lock:
            key = (host, port, verify)
            if key not in self._contexts:
                self._contexts[key] = self._make(host, port, verify)
            return self._contexts[key]

    def _make(self, host: str, port: int, verify: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for directory in self._directories(host, port):
            _load(context, directory)
        return context

    def _directories(self, host: str, port: int) -> list[str]:
        """Directories that apply, the user's first; only the first that exists counts, as in Podman."""
        if self._cert_dir:
            if not os.path.isdir(self._cert_dir):
                raise RegistryError(f"--cert-dir {self._cert_dir}: no such directory")
            return [self._cert_dir]
        shown = f"[{host}]" if ":" in host else host
        names = [f"{shown}:{port}"] + ([shown] if port == 443 else [])
        for root in self._roots:
            for name in names:
                if os.path.isdir(f"{root}/{name}"):
                    return [f"{root}/{name}"]
        return []


def _load(context: ssl.SSLContext, directory: str) -> None:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise RegistryError(f"read {directory}: {error.strerror}", "make it readable, or remove it") from None
    for name in names:
        path = f"{directory}/{name}"
        base, extension = os.path.splitext(name)
        try:
            if extension == ".crt":
                context.load_verify_locations(path)
            elif extension == ".cert":
                if f"{base}.key" not in names:
                    raise RegistryError(f"{path} has no key", f"add {directory}/{base}.key")
                context.load_cert_chain(path, f"{directory}/{base}.key", password=_no_password)
            elif extension == ".key" and f"{base}.cert" not in names:
                raise RegistryError(
                    f"{path} has no certificate",
                    f"add {directory}/{base}.cert; a client certificate ends in .cert, an authority in .crt",
                )
        except (OSError, ssl.SSLError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RegistryError(
                f"load {path}: {text}", "it must be a PEM file that you may read, without pass phrase"
            ) from None


def _no_password() -> str:
    """Instead of OpenSSL's prompt on the terminal."""
    raise ValueError("the key is encrypted")
