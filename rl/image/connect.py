"""How a registry is reached: the options of pull and push, and one connection pool for each registry.

Called by rl.image.pull and rl.image.push.
"""

from __future__ import annotations

from rl.image.certificates import Certificates
from rl.image.credentials import AuthFiles
from rl.image.registry import Registry
from rl.image.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.paths import Paths
    from rl.image import platforms
    from rl.image.credentials import Credentials
    from rl.image.registries_conf import Endpoint
    from rl.image.registry import Repository

#: How many blobs at once. Measured with 12 blobs of 10 MB: on loopback the number makes no difference
#: (0.5 s); where each connection gets 3 MB/s, 1, 3, 6, 12 take 41, 14, 7, 4 s. Six is what registries are used to.
JOBS = 6


class Options:
    """How to transfer. ``tls_verify`` None: as registries.conf says, and loopback registries may be plain."""

    __slots__ = ("authfile", "cert_dir", "credentials", "delay", "jobs", "platform", "retries", "tls_verify")

    def __init__(
        self,
        *,
        platform: platforms.Platform | None = None,
        tls_verify: bool | None = None,
        authfile: str = "",
        credentials: Credentials | None = None,
        cert_dir: str = "",
        retries: int = 3,
        delay: float = 1.0,
        jobs: int = JOBS,
    ) -> None:
        self.platform = platform
        self.tls_verify = tls_verify
        self.authfile = authfile
        self.credentials = credentials
        self.cert_dir = cert_dir
        self.retries = retries
        self.delay = delay
        self.jobs = jobs


class Registries:
    """Registries under one set of options; connections and tokens are kept between requests.

    *on_retry* is told, from whatever thread, why one waits.
    """

    def __init__(self, paths: Paths, options: Options, on_retry: Callable[[str], None]) -> None:
        self._options = options
        self._on_retry = on_retry
        self._certificates = Certificates(paths, options.cert_dir)
        self._auth = AuthFiles(paths, options.authfile)
        self._registries: dict[tuple[str, bool, bool], Registry] = {}

    def close(self) -> None:
        """End the connections."""
        for registry in self._registries.values():
            registry.transport.close()

    def repository(self, endpoint: Endpoint) -> Repository:
        own = self._options.credentials if not endpoint.mirror else None  # --creds is for the registry named
        key = (f"{endpoint.host}/{endpoint.repository}", endpoint.insecure, endpoint.mirror)
        if key not in self._registries:
            strict = self._options.tls_verify is True
            insecure = not strict and (self._options.tls_verify is False or endpoint.insecure)
            transport = Transport(
                self._certificates,
                verify=not insecure,
                retries=self._options.retries,
                delay=self._options.delay,
                on_retry=self._on_retry,
            )
            credentials = own or self._auth.find(endpoint.host, endpoint.repository)
            self._registries[key] = Registry(endpoint.host, transport, credentials, insecure=insecure, strict=strict)
        return self._registries[key].repository(endpoint.repository)
