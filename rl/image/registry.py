"""One registry, spoken to in the OCI distribution protocol (which is Docker's registry API, version 2).

Called by rl.image.pull, rl.image.upload and the verb login. Everything fetched is checked by who fetched it:
manifests here, blobs in rl.image.download.

Source: OCI distribution specification ("Pulling manifests", "Pulling blobs", "Listing Tags", "Error Codes").
"""

from __future__ import annotations

import hashlib
import threading
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from rl.config.jsonio import loads
from rl.errors import AuthenticationError, NoSuchImageError, RegistryError, UnsupportedError, VerificationError
from rl.image import documents
from rl.image.auth import Authorizer
from rl.image.proxies import is_loopback
from rl.image.reference import DOCKER
from rl.image.transport import PlainTextError, Transport, UnreachableError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rl.image.credentials import Credentials
    from rl.image.transport import Body, Response

#: The specification asks registries to take manifests up to 4 MiB.
LARGEST_MANIFEST = 4 << 20
_LARGEST_ERROR = 64 << 10
_LARGEST_LIST = 16 << 20
#: How often one request asks for another token: one that was just fetched can have been used up by other threads.
_RENEWALS = 5
_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))


class Registry:
    """The registry at *host* (``name[:port]``).

    *insecure*: plain HTTP will do where it does not speak TLS. Loopback registries need no flag for that
    (as in Docker) unless *strict* says that TLS was asked for.
    """

    def __init__(
        self,
        host: str,
        transport: Transport,
        credentials: Credentials | None,
        *,
        insecure: bool = False,
        strict: bool = False,
    ) -> None:
        self.host = host
        self.transport = transport
        self.authorizer = Authorizer(host, transport, credentials)
        address = "registry-1.docker.io" if host == DOCKER else host
        name = urlsplit(f"//{address}").hostname or ""
        self._plain_allowed = insecure or (is_loopback(name) and not strict)
        self._bases = [f"https://{address}"] + ([f"http://{address}"] if self._plain_allowed else [])
        self._base = "" if self._plain_allowed else self._bases[0]
        self._lock = threading.Lock()

    def request(
        self,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: Body | None = None,
        repeat: bool = True,
    ) -> Response:
        """The answer to *method* for *path*, authorized for *scope*. Raises AuthenticationError, RegistryError.

        *path* may be a whole URL, which an upload goes on to: one at another host gets no credentials of ours.
        *repeat*: see :meth:`rl.image.transport.Transport.request`.
        """
        if "://" in path and not self._own(path):
            return self.transport.request(method, path, dict(headers or {}), body, repeat=repeat)
        attempts = 0
        while True:
            authorization = self.authorizer.header(scope)
            sent = dict(headers or {})
            if authorization:
                sent["Authorization"] = authorization
            response = self._send(method, path, sent, body, repeat)
            if response.status != 401:
                return response
            challenge = response.header("www-authenticate")
            text = error_text(_body(response), 401)
            response.close()
            attempts += 1
            if attempts > _RENEWALS or not self.authorizer.challenged(challenge, scope, authorization):
                raise self._unauthorized(text)

    def _own(self, url: str) -> bool:
        """Whether *url* is at this registry, spoken to as we do: never http after https."""
        return bool(self._base) and url.startswith(self._base + "/")

    def resolve(self, location: str, path: str) -> str:
        """Where *location*, an answer for *path*, leads. Behind a proxy a registry may think it speaks http."""
        url = urljoin(self._base + path if "://" not in path else path, location)
        plain = "http" + self._base.removeprefix("https") + "/"
        return self._base + "/" + url[len(plain):] if self._base.startswith("https:") and url.startswith(plain) else url

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: Body | None, repeat: bool
    ) -> Response:
        """One request by https, or by http where that is allowed and what the registry speaks."""
        if not self._base:
            with self._lock:
                if not self._base:
                    if method == "GET":
                        return self._probe(path, headers)
                    self._probe("/v2/", {}).close()
        url = path if "://" in path else self._base + path
        return self.transport.request(method, url, headers, body, repeat=repeat)

    def _probe(self, path: str, headers: Mapping[str, str]) -> Response:
        try:
            response = self.transport.request("GET", self._bases[0] + path, headers)
            self._base = self._bases[0]
        except (PlainTextError, UnreachableError) as error:
            # Without a port in its name, https and http are different ports.
            if isinstance(error, UnreachableError) and urlsplit(self._bases[0]).port:
                raise
            try:
                response = self.transport.request("GET", self._bases[1] + path, headers)
            except UnreachableError:
                raise error from None
            self._base = self._bases[1]
        return response

    def _unauthorized(self, text: str) -> AuthenticationError:
        credentials = self.authorizer.credentials
        if credentials:
            return AuthenticationError(
                f"{self.host} refuses the credentials of {credentials.described}: {text}",
                credentials.advice(self.host),
            )
        return AuthenticationError(
            f"{self.host} wants credentials: {text}",
            f"log in: rl login {self.host}; some registries answer so for images that do not exist",
        )

    def check_login(self) -> None:
        """Ask with our credentials whether they are accepted. Raises AuthenticationError, RegistryError."""
        with self.request("/v2/", "") as response:
            if response.status in (401, 403):
                raise AuthenticationError(
                    f"{self.host} refuses the credentials: {error_text(_body(response), response.status)}"
                )
            if response.status != 200:
                raise RegistryError(
                    f"{self.host} does not answer as a registry: {error_text(_body(response), response.status)}",
                    "check the name and the port",
                )

    def repository(self, name: str) -> Repository:
        """The repository *name* of this registry."""
        return Repository(self, name)


class Repository:
    """What can be read from one repository, and where (``path``) :mod:`rl.image.upload` writes."""

    __slots__ = ("name", "path", "registry", "scope")

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry = registry
        self.name = name
        self.path = f"/v2/{quote(name)}"
        self.scope = f"repository:{name}:pull"

    def __str__(self) -> str:
        return f"{self.registry.host}/{self.name}"

    def manifest(self, which: str, size: int = -1) -> tuple[bytes, str]:
        """The manifest or index of a tag or a digest, and its sha256 digest.

        Raises NoSuchImageError, VerificationError (another digest, or not *size* bytes), UnsupportedError.
        """
        what = f"{self}{'@' if ':' in which else ':'}{which}"
        with self.registry.request(f"{self.path}/manifests/{which}", self.scope, {"Accept": _ACCEPT}) as response:
            if response.status == 404:
                raise self._unknown(what, error_text(_body(response), 404))
            if response.status != 200:
                raise self.failure(f"get the manifest of {what}", response)
            data = response.read(LARGEST_MANIFEST)
            kind = response.header("content-type").partition(";")[0].strip().lower()
            announced = response.header("docker-content-digest")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if 0 <= size != len(data):
            raise VerificationError(f"the manifest {what} has {len(data)} bytes instead of {size}", _BROKEN)
        wanted = which if ":" in which else announced if announced.startswith("sha256:") else digest
        if wanted != digest:
            raise VerificationError(
                f"the manifest {what} has other content: its digest is {digest}, not {wanted}", _BROKEN
            )
        _refuse_schema1(data, kind, what)
        return data, digest

    def _unknown(self, what: str, text: str) -> NoSuchImageError:
        return NoSuchImageError(
            f"{what}: {self.registry.host} has no such image: {text}",
            "check name and tag; a private image needs `rl login` first"
            if not self.registry.authorizer.credentials
            else "check name and tag, and that your account may read it",
        )

    def blob(self, digest: str, start: int = 0) -> Response:
        """The answer to a request for a blob from byte *start* on; its status is the caller's business."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        return self.registry.request(f"{self.path}/blobs/{digest}", self.scope, headers)

    def small_blob(self, digest: str, size: int) -> bytes:
        """All of a blob of *size* bytes, verified. Raises RegistryError, VerificationError."""
        with self.blob(digest) as response:
            if response.status != 200:
                raise self.failure(f"get blob {digest} of {self}", response)
            data = response.read(LARGEST_MANIFEST)
        if len(data) != size or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise VerificationError(f"blob {digest} of {self} is not what its digest says", _BROKEN)
        return data

    def tags(self) -> list[str]:
        """Every tag, in the registry's order. Raises NoSuchImageError, RegistryError."""
        found: list[str] = []
        path = f"{self.path}/tags/list"
        for _ in range(10000):
            with self.registry.request(path, self.scope) as response:
                if response.status == 404:
                    raise self._unknown(str(self), error_text(_body(response), 404))
                if response.status != 200:
                    raise self.failure(f"list the tags of {self}", response)
                data = response.read(_LARGEST_LIST)
                following = _next(response.header("link"), path)
            try:
                tags = loads(data.decode())["tags"] or []
            except (ValueError, KeyError, TypeError):
                raise RegistryError(f"list the tags of {self}: the answer is not a list of tags") from None
            found += [tag for tag in tags if isinstance(tag, str)]
            if not following or following == path:
                break
            path = following
        return found

    def failure(self, doing: str, response: Response) -> RegistryError:
        """The error for an answer with an unexpected status."""
        status = response.status
        text = error_text(_body(response), status)
        if status == 403:
            return AuthenticationError(
                f"{doing}: access denied: {text}",
                f"log in with an account that may do so: rl login {self.registry.host}",
            )
        if status == 429:
            return RegistryError(f"{doing}: {text}", "wait, or log in: registries allow more to accounts they know")
        hint = "the registry is in trouble: try again later" if status >= 500 else "is this a registry? check the name"
        return RegistryError(f"{doing}: {text}", hint)


_BROKEN = "the registry or something on the way to it is broken or hostile: nothing of it was used"


def _body(response: Response) -> bytes:
    try:
        return response.read(_LARGEST_ERROR)
    except RegistryError:
        return b""


def error_text(data: bytes, status: int) -> str:
    """What an error answer says, in one line that is safe to print."""
    words: list[str] = []
    try:
        document = loads(data.decode())
        errors = document.get("errors")
        if isinstance(errors, list):
            words += [str(error.get("message") or error.get("code") or "") for error in errors[:3]]
        else:
            words.append(str(document.get("message") or document.get("details") or document.get("error") or ""))
    except (ValueError, AttributeError, RecursionError):
        pass
    text = "; ".join(word for word in words if word)[:300]
    text = "".join(character if character.isprintable() else " " for character in text)
    return text or f"{status} {reason(status)}".strip()


def _refuse_schema1(data: bytes, kind: str, what: str) -> None:
    document = documents.parse_document(data, f"the manifest {what}")
    if kind in _SCHEMA1 or document.get("schemaVersion") == 1:
        raise UnsupportedError(
            f"{what} is in Docker's image format of before 2016 (schema 1), which can no longer be verified safely",
            "push it again with a current tool: skopeo copy --format v2s2 …",
        )
    if "manifests" in document and ("layers" in document or "config" in document or "fsLayers" in document):
        # CVE-2021-41190: one digest, read as two different images
        raise VerificationError(f"{what} is both an index and a manifest", _BROKEN)


def _next(link: str, path: str) -> str:
    """The path of ``Link: <…>; rel="next"``, "" at the end of the list."""
    target, _, rest = link.partition(">")
    if 'rel="next"' not in rest.replace("rel=next", 'rel="next"') or not target.strip().startswith("<"):
        return ""
    parts = urlsplit(urljoin(path, target.strip()[1:]))
    if not parts.path.startswith("/v2/") or not parse_qs(parts.query):
        return ""
    return f"{parts.path}?{parts.query}"
