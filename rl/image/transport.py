"""HTTP to registries, token servers and content servers: connections, proxies, redirects, retries.

Connections are kept and reused; any number of threads may call :meth:`Transport.request` at once, each
request has a connection of its own. What fails for a while (429, 5xx, a lost connection) is tried
again with exponential back-off and jitter; what fails for good raises one of the classes below, each
a :class:`rl.errors.RegistryError` with a hint.

Called by rl.image.registry, rl.image.auth, rl.image.download and rl.image.upload.

Source: RFC 9110 (redirects, Retry-After); OCI distribution specification; RFC 6585 (429).
"""

from __future__ import annotations

import errno
import http.client
import os
import random
import socket
import ssl
import threading
from urllib.parse import quote, urljoin, urlsplit

from rl import __version__
from rl.errors import AuthenticationError, RegistryError, UnsupportedError
from rl.image import proxies
from rl.image.certificates import Certificates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    #: What is sent: bytes, or how to open it (each attempt reads it from its start; Content-Length is the caller's).
    Body = bytes | Callable[[], BinaryIO]
    Key = tuple[str, str, int]  # scheme, host, port

CONNECT_TIMEOUT = 30.0  # seconds
READ_TIMEOUT = 60.0  # seconds without a single byte
MAX_REDIRECTS = 10
MAX_WAIT = 120.0  # seconds: a server that asks for more in Retry-After is not waited for
_BLOCK = 1 << 18  # bytes of an upload at once
_TRANSIENT = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "/%:=&?~#+!$,;'@()*[]"

#: What OpenSSL says when the other side does not speak TLS at all.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
)
#: What it says when the server wants a certificate from us, or another one.
_CLIENT_CERTIFICATE = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA")


class InterruptedTransferError(RegistryError):
    """The connection was lost or timed out: worth another try."""


class UnreachableError(RegistryError):
    """Nobody listens there, or the host does not exist."""


class UntrustedError(RegistryError):
    """The server's certificate is not trusted."""


class PlainTextError(RegistryError):
    """The server does not speak TLS."""


class AbortedError(RegistryError):
    """Another thread called :meth:`Transport.abort`."""


class Response:
    """One answer. Read it with :meth:`read` or :meth:`readinto`, then :meth:`close`; a context manager."""

    __slots__ = ("_connection", "_inner", "_key", "_transport", "status", "url")

    def __init__(
        self,
        transport: Transport,
        key: Key,
        connection: http.client.HTTPConnection,
        inner: http.client.HTTPResponse,
        url: str,
    ) -> None:
        self._transport = transport
        self._key = key
        self._connection = connection
        self._inner = inner
        self.status = inner.status
        self.url = url

    def header(self, name: str) -> str:
        """The header's value, several joined by ", "; "" where it is absent."""
        return self._inner.getheader(name) or ""

    def read(self, limit: int) -> bytes:
        """The whole body. Raises RegistryError above *limit* bytes, InterruptedTransferError when it was cut short."""
        buffer = bytearray()
        chunk = bytearray(1 << 16)
        while count := self.readinto(chunk):
            buffer += memoryview(chunk)[:count]
            if len(buffer) > limit:
                raise RegistryError(f"read {self.url}: the answer is larger than {limit} bytes", "is this a registry?")
        announced = self.header("content-length")
        if announced.isdigit() and int(announced) != len(buffer) and not self.header("content-encoding"):
            raise InterruptedTransferError(f"read {self.url}: the answer ended early", "try again")
        return bytes(buffer)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill *buffer* with what comes next; 0 at the end. Raises InterruptedTransferError."""
        try:
            count = self._inner.readinto(buffer)
            if not count:
                self._transport.check_aborted()  # shutdown(2) looks like the end
            return count
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # ValueError and AttributeError: abort() closed the socket below us
            self._transport.check_aborted()
            raise classify(error, self.url) from None

    def close(self) -> None:
        """Give the connection back if all was read, else end it."""
        self._transport.release(self._key, self._connection, reusable=self._inner.isclosed())

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """Connections to any number of hosts under one set of rules.

    *verify* false accepts any certificate. *retries* is how often a transient failure is repeated, *delay*
    the first pause in seconds (it doubles). *on_retry* is told, from whatever thread, why one waits.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        verify: bool = True,
        retries: int = 3,
        delay: float = 1.0,
        environ: Mapping[str, str] = os.environ,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self.verify = verify
        self.retries = retries
        self._certificates = certificates
        self._delay = delay
        self._environ = environ
        self._on_retry = on_retry
        self._guard = threading.Lock()
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._busy: set[http.client.HTTPConnection] = set()
        self._answered: set[Key] = set()
        self._aborted = threading.Event()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None, *, repeat: bool = True
    ) -> Response:
        """The answer to one request, whatever its status, after redirects and retries.

        Without *repeat* there are none: an upload that was cut off goes on where it was, which its caller does.
        """
        attempt = 0 if repeat else self.retries
        while True:
            try:
                response = self._follow(method, url, dict(headers), body)
            except (InterruptedTransferError, UnreachableError) as error:
                # A host that never answered is down or misspelt; one that did answer may come back.
                if attempt >= self.retries or (isinstance(error, UnreachableError) and _key(url) not in self._answered):
                    raise
                self.pause(attempt, error.message)
            else:
                if response.status not in _TRANSIENT or attempt >= self.retries:
                    return response
                wanted = retry_after(response.header("retry-after"))
                if wanted > MAX_WAIT:
                    return response
                why = f"{urlsplit(url).netloc} answered {response.status} {reason(response.status)}"
                response.close()
                self.pause(attempt, why, wanted)
            attempt += 1

    def pause(self, attempt: int, why: str, at_least: float = 0.0) -> None:
        """Wait before attempt number *attempt* + 1: exponential, with jitter, so that many clients spread out."""
        seconds = max(at_least, min(self._delay * 2**attempt, 30.0) * random.uniform(0.5, 1.0))
        if self._on_retry:
            self._on_retry(f"{why}; trying again in {seconds:.1f} s")
        self._aborted.wait(seconds)
        self.check_aborted()

    def _follow(self, method: str, url: str, headers: dict[str, str], body: Body | None) -> Response:
        for _ in range(MAX_REDIRECTS):
            response = self._once(method, url, headers, body)
            target = response.header("location")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            target = quote(urljoin(url, target), safe=_SAFE)
            if urlsplit(target).scheme not in ("http", "https"):
                raise RegistryError(f"{url} redirects to {target}", "rl follows http and https only")
            if url.startswith("https:") and target.startswith("http:") and self.verify:
                raise RegistryError(
                    f"{url} redirects to {target}, which is not encrypted",
                    "if you trust that network: --tls-verify=false, or insecure = true in registries.conf",
                )
            if _key(target) != _key(url):  # credentials are for the host they were given for
                headers.pop("Authorization", None)
            if response.status == 303 and method != "HEAD":
                method, body = "GET", None
            url = target
        raise RegistryError(f"{url}: more than {MAX_REDIRECTS} redirects", "the registry's set-up is broken")

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        parts = urlsplit(url)
        key = _key(url)
        proxy = proxies.proxy_for(parts.scheme, key[1], key[2], self._environ)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"User-Agent": f"rl/{__version__}", "Accept-Encoding": "identity", **headers}
        if proxy and parts.scheme == "http":
            path = f"http://{parts.netloc}{path}"
            sent.update(proxy.headers)
        while True:
            connection, fresh = self._take(key, proxy)
            try:
                self._send(connection, method, path, body, sent)
                if connection.sock is not None:
                    connection.sock.settimeout(READ_TIMEOUT)
                inner = connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                self.release(key, connection, reusable=False)
                self.check_aborted()
                if not fresh and isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    continue  # the server closed it while it was idle
                raise classify(error, url, proxy.address if proxy else "") from None
            except BaseException:
                self.release(key, connection, reusable=False)
                raise
            self._answered.add(key)
            return Response(self, key, connection, inner, url)

    @staticmethod
    def _send(
        connection: http.client.HTTPConnection, method: str, path: str, body: Body | None, headers: Mapping[str, str]
    ) -> None:
        if body is None or isinstance(body, bytes):
            connection.request(method, path, body, headers)
            return
        with body() as stream:
            try:
                connection.request(method, path, stream, headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses may answer and hang up before it has read everything.
                if connection.sock is None:
                    raise

    def _take(self, key: Key, proxy: proxies.Proxy | None) -> tuple[http.client.HTTPConnection, bool]:
        """An idle connection to *key*, or a new one (True)."""
        with self._guard:
            self.check_aborted()
            idle = self._idle.get(key)
            if idle:
                connection = idle.pop()
                self._busy.add(connection)
                return connection, False
        connection = self._new(key, proxy)
        with self._guard:
            self._busy.add(connection)
        return connection, True

    def _new(self, key: Key, proxy: proxies.Proxy | None) -> http.client.HTTPConnection:
        scheme, host, port = key
        address, at = (proxy.host, proxy.port) if proxy else (host, port)
        if scheme == "http":
            return http.client.HTTPConnection(address, at, timeout=CONNECT_TIMEOUT, blocksize=_BLOCK)
        context = self._certificates.context(host, port, self.verify)
        connection = http.client.HTTPSConnection(
            address, at, timeout=CONNECT_TIMEOUT, context=context, blocksize=_BLOCK
        )
        if proxy:
            if proxy.scheme == "https":
                raise UnsupportedError(
                    f"proxy {proxy.address}: TLS to the proxy itself is not supported", "give it as http://HOST:PORT"
                )
            connection.set_tunnel(host, port, proxy.headers)
        return connection

    def release(self, key: Key, connection: http.client.HTTPConnection, reusable: bool) -> None:
        """Take back a connection of :class:`Response`."""
        with self._guard:
            self._busy.discard(connection)
            if reusable and not self._aborted.is_set() and connection.sock is not None:
                self._idle.setdefault(key, []).append(connection)
                return
        connection.close()

    def check_aborted(self) -> None:
        """Raises AbortedError after :meth:`abort`."""
        if self._aborted.is_set():
            raise AbortedError("the transfer was given up")

    def abort(self) -> None:
        """End every transfer now: the threads in the middle of one get AbortedError."""
        self._aborted.set()
        with self._guard:
            for connection in self._busy:
                try:
                    if connection.sock is not None:
                        connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._guard:
            connections = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()


def _key(url: str) -> Key:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise RegistryError(f"{url}: the port is not a number") from None
    return parts.scheme, parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


def reason(status: int) -> str:
    """The standard words for *status*."""
    return http.client.responses.get(status, "")


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 for anything else."""
    if value.isdigit():
        return float(value)
    if not value:
        return 0.0
    import time
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def classify(error: Exception, url: str, proxy: str = "") -> RegistryError:
    """What went wrong with *url*, as one of this module's errors, with a message for people."""
    where = urlsplit(url).netloc + (f" through the proxy {proxy}" if proxy else "")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(where, urlsplit(url).netloc, error)
    if isinstance(error, ssl.SSLError):
        return _tls(where, urlsplit(url).netloc, error)
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return UnreachableError(
                f"look up {where}: no name server answers (temporary failure)",
                "is this machine connected? see /etc/resolv.conf",
            )
        return UnreachableError(f"look up {where}: there is no such host", "check the registry's name, or the DNS")
    if isinstance(error, TimeoutError):
        return InterruptedTransferError(
            f"connect to {where}: timed out", "is the registry up and reachable? is a proxy needed?"
        )
    if isinstance(error, OSError) and str(error).startswith("Tunnel connection failed"):
        return UnreachableError(f"connect to {where}: {error}", "check https_proxy and no_proxy in the environment")
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return UnreachableError(
            f"connect to {where}: {_UNREACHABLE[error.errno]}",
            "is the registry running there? check host and port" if not proxy else "check the proxy variables",
        )
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return InterruptedTransferError(
        f"talk to {where}: the connection was lost ({text})", "try again: what arrived is kept"
    )


_UNREACHABLE = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EADDRNOTAVAIL: "the address cannot be used from here",
}


def _untrusted(where: str, registry: str, error: ssl.SSLCertVerificationError) -> UntrustedError:
    why = error.verify_message or str(error)
    return UntrustedError(
        f"connect to {where}: its certificate is not trusted: {why}",
        f"put the certificate of its authority into ~/.config/containers/certs.d/{registry}/ca.crt,"
        " or accept any certificate: --tls-verify=false",
    )


def _tls(where: str, registry: str, error: ssl.SSLError) -> RegistryError:
    name = error.reason or ""
    if any(part in name for part in _NOT_TLS):
        return PlainTextError(
            f"connect to {where}: it does not speak TLS",
            f"a registry without encryption needs --tls-verify=false, or in registries.conf:"
            f' [[registry]] location = "{registry}" insecure = true',
        )
    if any(part in name for part in _CLIENT_CERTIFICATE):
        return AuthenticationError(
            f"connect to {where}: it refuses our certificate ({name})",
            f"put client.cert and client.key into ~/.config/containers/certs.d/{registry}/",
        )
    return InterruptedTransferError(f"talk to {where}: TLS failed ({name or error})", "try again")
