"""The registry's challenge and our answer to it: Basic, or a Bearer token from its token server.

Called by rl.image.registry. First every request goes out without credentials; a 401 brings a challenge, and
only then the credentials leave this machine: to the registry (Basic) or its token server (Bearer).

Source: RFC 9110 section 11; the distribution project's token authentication specification, and its
OAuth2 variant for identity tokens.
"""

from __future__ import annotations

import re
import threading
import time
from urllib.parse import urlencode, urlsplit

from rl.config.jsonio import loads
from rl.errors import AuthenticationError, RegistryError
from rl.image.proxies import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.image.credentials import Credentials
    from rl.image.transport import Transport

_ITEM = re.compile(r'\s*,?\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+))?')
_CLIENT = "rl"
_LARGEST_TOKEN = 1 << 20
#: Seconds a token is good for when its server does not say (the specification's default), and how much
#: earlier we ask for a new one.
_DEFAULT_LIFE = 60.0
_MARGIN = 10.0


class Challenge:
    """One challenge of a WWW-Authenticate header; ``scheme`` in lower case."""

    __slots__ = ("parameters", "scheme")

    def __init__(self, scheme: str, parameters: dict[str, str]) -> None:
        self.scheme = scheme
        self.parameters = parameters


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges in *header*, in its order; what cannot be read is left out."""
    found: list[Challenge] = []
    position = 0
    while match := _ITEM.match(header, position):
        position = match.end()
        name, value = match.groups()
        if value is None:
            found.append(Challenge(name.lower(), {}))
        elif found:
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            found[-1].parameters[name.lower()] = value
    return found


class Authorizer:
    """Authorization headers for one registry; any number of threads may ask at once."""

    def __init__(self, registry: str, transport: Transport, credentials: Credentials | None) -> None:
        self.registry = registry
        self.credentials = credentials
        self._transport = transport
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}  # scope → (token, good until, by the monotonic clock)

    def header(self, scope: str) -> str:
        """What to send with a request for *scope*; "" as long as nothing was asked for."""
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                return self.credentials.basic if self.credentials else ""
            token, until = self._tokens.get(scope, ("", 0.0))
            if not token or time.monotonic() >= until:
                token, until = self._fetch(self._challenge, scope)
                self._tokens[scope] = (token, until)
            return f"Bearer {token}"

    def challenged(self, header: str, scope: str, sent: str) -> bool:
        """Take in the WWW-Authenticate *header* of a 401 that answered *sent*; whether to try again."""
        known = {challenge.scheme: challenge for challenge in reversed(parse_challenges(header))}
        challenge = known.get("bearer") or known.get("basic")
        if challenge is None:
            return False
        with self._lock:
            self._challenge = challenge
            if challenge.scheme == "basic":
                return bool(self.credentials and self.credentials.username) and sent != self._basic()
            token = self._tokens.get(scope, ("", 0.0))[0]
            if sent == f"Bearer {token}":
                del self._tokens[scope]  # expired early, or revoked: one thread fetches another
        return True

    def _basic(self) -> str:
        return self.credentials.basic if self.credentials else ""

    def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(
                f"{self.registry} names {realm!r} as its token server", "the registry's set-up is broken"
            )
        if parts.scheme == "http" and self._transport.verify and not is_loopback(parts.hostname):
            raise RegistryError(
                f"{self.registry} wants its token fetched from {realm}, which is not encrypted",
                "if you trust that network: --tls-verify=false",
            )
        query = {"service": challenge.parameters.get("service", ""), "scope": scope}
        query = {name: value for name, value in query.items() if value}
        headers = {"Accept": "application/json"}
        body: bytes | None = None
        if self.credentials and self.credentials.token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": self.credentials.token,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form).encode()
        else:
            if self.credentials:
                headers["Authorization"] = self.credentials.basic
                query["account"] = self.credentials.username
            if query:
                realm += ("&" if parts.query else "?") + urlencode(query)
        began = time.monotonic()
        with self._transport.request("POST" if body else "GET", realm, headers, body) as response:
            status = response.status
            data = response.read(_LARGEST_TOKEN)
        if status != 200:
            raise self._refused(status, parts.netloc, data)
        return self._token(data, parts.netloc, began)

    def _refused(self, status: int, server: str, data: bytes) -> RegistryError:
        from rl.image.registry import error_text

        why = error_text(data, status)
        if status in (400, 401, 403) and self.credentials:
            return AuthenticationError(
                f"{self.registry}: its token server {server} refuses the credentials of"
                f" {self.credentials.described}: {why}",
                self.credentials.advice(self.registry),
            )
        if status in (401, 403):
            return AuthenticationError(
                f"{self.registry}: its token server {server} wants credentials: {why}",
                f"log in: rl login {self.registry}",
            )
        return RegistryError(f"get a token for {self.registry} from {server}: {why}", "try again later")

    def _token(self, data: bytes, server: str, began: float) -> tuple[str, float]:
        try:
            answer = loads(data.decode())
            token = answer.get("token") or answer.get("access_token")
            life = answer.get("expires_in") or _DEFAULT_LIFE
        except (ValueError, AttributeError):
            token, life = None, 0
        # It becomes a header: a line break in it would be another header.
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise RegistryError(f"the token server {server} of {self.registry} answers without a token")
        if not isinstance(life, (int, float)) or life < _DEFAULT_LIFE:
            life = _DEFAULT_LIFE
        return token, began + life - _MARGIN
