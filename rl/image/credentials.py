"""Credentials for registries: where they are kept, by whom, under which key.

Called by rl.image.pull and by the verbs login and logout.

Source: containers-auth.json(5); Docker's config.json and its docker-credential-helpers protocol.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import subprocess

from rl.config.jsonio import dumps, loads, read_json, write_atomic
from rl.errors import AuthenticationError, NotFoundError, RlError, UsageError
from rl.image.reference import DOCKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.paths import Paths

#: What other tools call Docker Hub.
_HUB_KEYS = ("docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")
_HELPER_SECONDS = 60
OPTION = "--creds"
_NOT_FOUND = "credentials not found"


class Credentials:
    """A name and its password, or an identity token (``token``) that stands for both."""

    __slots__ = ("password", "source", "token", "username")

    def __init__(self, username: str, password: str, token: str = "", source: str = "") -> None:
        self.username = username
        self.password = password
        self.token = token
        self.source = source

    @property
    def described(self) -> str:
        """Whose they are and where they are from, for messages."""
        who = self.username or "the identity token"
        return f"{who} (from {self.source})" if self.source else who

    def advice(self, registry: str) -> str:
        """The hint for credentials that were refused."""
        if not self.source or self.source == OPTION:
            return "check user name and password"
        return f"log in again: rl login {registry}"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def from_option(text: str) -> Credentials:
    """``--creds USER:PASSWORD``. Raises UsageError where a part is missing: nothing is asked for here."""
    username, colon, password = text.partition(":")
    if not username or not colon:
        raise UsageError("--creds needs a user name and a password", "write --creds USER:PASSWORD, or use rl login")
    return Credentials(username, password, source=OPTION)


class AuthFiles:
    """The files that hold credentials, in the order they are asked; the first is the one that login writes.

    *explicit* (``--authfile``, or $REGISTRY_AUTH_FILE) is then the only one.
    """

    def __init__(self, paths: Paths, explicit: str = "", environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        explicit = explicit or environ.get("REGISTRY_AUTH_FILE", "")
        if explicit:
            self.files = [explicit]
            return
        home = environ.get("HOME") or os.path.expanduser("~")
        docker = environ.get("DOCKER_CONFIG") or f"{home}/.docker"
        self.files = [
            f"{runtime_directory(environ)}/containers/auth.json",
            f"{paths.config}/auth.json",
            f"{docker}/config.json",
            f"{home}/.dockercfg",
        ]

    @property
    def primary(self) -> str:
        """The file that login and logout change."""
        return self.files[0]

    def find(self, registry: str, repository: str = "") -> Credentials | None:
        """What is stored for registry/repository: the longest key wins, the first file that has one.

        Raises RlError for a file that cannot be read, or a helper that fails.
        """
        keys = _keys(registry, repository)
        for path in self.files:
            document = read(path)
            found = _from_helpers(document, registry, path) or _from_auths(document, keys, path)
            if found:
                return found
        return None

    def store(self, key: str, credentials: Credentials) -> str:
        """Keep *credentials* for *key* (registry, or registry/namespace); says where. Raises RlError."""
        document = read(self.primary)
        helper = _helper_of(document, key.partition("/")[0])
        if helper:
            call_helper(
                helper,
                "store",
                dumps({"ServerURL": key, "Username": credentials.username, "Secret": credentials.password}),
            )
            return f"the credential helper {helper}"
        pair = f"{credentials.username}:{credentials.password}".encode()
        document.setdefault("auths", {})[key] = {"auth": base64.b64encode(pair).decode()}
        write(self.primary, document)
        return self.primary

    def remove(self, key: str) -> bool:
        """Forget *key*; whether it was there. Raises RlError."""
        document = read(self.primary)
        removed = False
        helper = _helper_of(document, key.partition("/")[0])
        if helper:
            try:
                call_helper(helper, "get", key)  # erasing what is not there is an error in some, none in others
                call_helper(helper, "erase", key)
                removed = True
            except NotFoundError:
                pass
        auths = _object(document, "auths", self.primary)
        for alias in _aliases(key):
            if auths.pop(alias, None) is not None:
                removed = True
                write(self.primary, document)
        return removed

    def remove_all(self) -> None:
        """Forget everything in the primary file, and what its helpers hold. Raises RlError."""
        if not os.path.exists(self.primary):
            return
        document = read(self.primary)
        for registry, helper in _object(document, "credHelpers", self.primary).items():
            try:
                call_helper(helper, "erase", registry)
            except NotFoundError:
                pass
        store = document.get("credsStore")
        if isinstance(store, str) and store:
            for registry in call_helper_list(store):
                call_helper(store, "erase", registry)
        document["auths"] = {}
        write(self.primary, document)


def runtime_directory(environ: Mapping[str, str]) -> str:
    """Where auth.json lives: $XDG_RUNTIME_DIR, or what containers-auth.json(5) says for root."""
    return environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"


# the files


def read(path: str) -> dict[str, Any]:
    """The document in an auth file; empty when there is none. Raises RlError naming the file."""
    try:
        document = read_json(path) if os.path.getsize(path) else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        # /run/containers/0 after `su`: not ours, so not our credentials
        return {}
    except (OSError, ValueError) as error:
        raise RlError(
            f"read credentials from {path}: {error}", "correct that file, or remove it and log in again"
        ) from None
    if not isinstance(document, dict):
        raise RlError(
            f"read credentials from {path}: not a JSON object", "correct that file, or remove it and log in again"
        )
    if os.path.basename(path) == ".dockercfg" and "auths" not in document:
        return {"auths": document}  # the format before config.json: the auths alone
    return document


def write(path: str, document: dict[str, Any]) -> None:
    """Replace an auth file, readable by its owner only. Raises RlError."""
    import json

    try:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        # A linked auth file (dotfile managers) stays a link.
        write_atomic(os.path.realpath(path), (json.dumps(document, indent="\t") + "\n").encode(), 0o600)
    except OSError as error:
        raise RlError(
            f"write credentials to {path}: {error.strerror}",
            "choose another file with --authfile or REGISTRY_AUTH_FILE",
        ) from None


def _object(document: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise RlError(f"read credentials from {path}: {key} is not an object", "correct that file, or remove it")
    return value


def _keys(registry: str, repository: str) -> list[str]:
    """registry/a/b, registry/a, registry: the order in which keys are tried."""
    parts = repository.split("/") if repository else []
    return ["/".join([registry, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _aliases(key: str) -> list[str]:
    return [*_HUB_KEYS] if key in _HUB_KEYS else [key, f"https://{key}", f"https://{key}/", f"https://{key}/v1/"]


def _from_auths(document: dict[str, Any], keys: list[str], path: str) -> Credentials | None:
    auths = _object(document, "auths", path)
    for key in keys:
        entry = auths.get(key)
        if entry:
            return _entry(entry, key, path)
    host = keys[-1]
    for key, entry in auths.items():  # Docker writes URLs: https://host/v1/
        if entry and _host_of(key) == host:
            return _entry(entry, key, path)
    return None


def _host_of(key: str) -> str:
    """The registry that a key of Docker's means; "" for one with a namespace."""
    bare = key.partition("://")[2] or key
    host, _, rest = bare.partition("/")
    if rest.strip("/") not in ("", "v1", "v2"):
        return ""
    return DOCKER if host in _HUB_KEYS else host


def _entry(entry: Any, key: str, path: str) -> Credentials | None:
    if not isinstance(entry, dict):
        raise RlError(f"read credentials from {path}: {key} is not an object", "log in again: rl login " + key)
    token = entry.get("identitytoken") or ""
    text = entry.get("auth") or ""
    if not text:
        if entry.get("username"):
            return Credentials(entry["username"], entry.get("password") or "", token, path)
        return Credentials("", "", token, path) if token else None
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        colon = ""
    if not colon:
        raise RlError(
            f"read credentials from {path}: the entry of {key} is not base64 of USER:PASSWORD",
            f"log in again: rl login {key}",
        )
    return Credentials(username, password.rstrip("\0"), token, path)


# helper programs


def _helper_of(document: dict[str, Any], registry: str) -> str:
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for alias in _aliases(registry):
            if isinstance(helpers.get(alias), str):
                return str(helpers[alias])
    store = document.get("credsStore")
    return store if isinstance(store, str) else ""


def _from_helpers(document: dict[str, Any], registry: str, path: str) -> Credentials | None:
    helper = _helper_of(document, registry)
    if not helper:
        return None
    if helper == document.get("credsStore") and not shutil.which(f"docker-credential-{helper}"):
        return None  # Docker Desktop leaves such entries behind; they must not stop anonymous pulls
    names = _HUB_KEYS[:2] if registry == DOCKER else (registry, f"https://{registry}")
    for name in names:
        try:
            answer = loads(call_helper(helper, "get", name))
            username, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
        except NotFoundError:
            continue
        except (ValueError, AttributeError):
            raise RlError(f"docker-credential-{helper} (named in {path}) answers something that is not JSON") from None
        if username == "<token>":
            return Credentials("", "", secret, f"docker-credential-{helper}")
        if secret:
            return Credentials(username, secret, source=f"docker-credential-{helper}")
    return None


def call_helper(helper: str, verb: str, text: str) -> str:
    """What docker-credential-*helper* prints. Raises NotFoundError when it has none, AuthenticationError."""
    program = f"docker-credential-{helper}"
    if "/" in helper:
        raise RlError(f"{program} is not the name of a credential helper", "correct credHelpers in auth.json")
    try:
        done = subprocess.run([program, verb], input=text, capture_output=True, text=True, timeout=_HELPER_SECONDS)
    except FileNotFoundError:
        raise AuthenticationError(
            f"run {program}: not installed", "install it, or remove it from credHelpers and credsStore in auth.json"
        ) from None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise AuthenticationError(f"run {program} {verb}: {error}") from None
    if done.returncode == 0:
        return done.stdout
    message = (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
    if _NOT_FOUND in message.lower():
        raise NotFoundError(message)
    raise AuthenticationError(f"{program} {verb}: {message[:200]}", "is its key store unlocked?")


def call_helper_list(helper: str) -> list[str]:
    """The registries a helper knows."""
    try:
        answer = loads(call_helper(helper, "list", ""))
    except (ValueError, NotFoundError):
        return []
    return [str(name) for name in answer] if isinstance(answer, dict) else []
