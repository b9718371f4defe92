"""rl image trust: the policy of this user as a table, and changes to it.

Source: podman-image-trust(1); containers-policy.json(5).
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from rl.config.jsonio import dumps, write_atomic
from rl.errors import NotFoundError, RlError, UsageError
from rl.image import lookaside, policy
from rl.runtime.userns import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: What people say, and what the policy says.
TYPES = {
    "accept": "insecureAcceptAnything", "insecureAcceptAnything": "insecureAcceptAnything", "reject": "reject",
    "signedBy": "signedBy", "sigstoreSigned": "sigstoreSigned",
}
_SHOWN = {"insecureAcceptAnything": "accept", "reject": "reject", "signedBy": "signed",
          "sigstoreSigned": "sigstoreSigned", "signedBaseLayer": "signedBaseLayer"}
_NAMES = {"docker": "repository", "docker-daemon": "docker-daemon", "atomic": "atomic"}


def raw(engine: Engine) -> str:
    """The policy as it stands in its file; {} where there is none."""
    path = policy.file_of(engine.paths)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return "{}\n"
    except OSError as error:
        raise RlError(f"read {path}: {error.strerror}") from None


def show(engine: Engine) -> list[dict[str, Any]]:
    """A row for the default and for each scope: transport, name, type, gpgId, sigstore. Raises RlError."""
    path = policy.file_of(engine.paths)
    document = _policy(path)
    rows = [_row(engine.paths, "all", "default", member, "* (default)") for member in document["default"]]
    for transport, table in sorted(document.get("transports", {}).items()):
        for scope, members in sorted(table.items()):
            name = scope or "* (default)" if transport != "docker-daemon" else scope
            shown = _NAMES.get(transport, transport)
            rows += [_row(engine.paths, shown, scope, member, name) for member in members]
    return rows


def _policy(path: str) -> dict[str, Any]:
    """The policy in a file; where there is none everything is accepted."""
    if os.path.exists(path):
        return policy.read(path)
    return {"default": [{"type": "insecureAcceptAnything"}]}


def _row(paths: Paths, transport: str, scope: str, member: dict[str, Any], name: str) -> dict[str, Any]:
    row = {"transport": transport, "name": scope if transport == "all" else name, "repo_name": scope,
           "type": _SHOWN[member["type"]], "gpgId": "", "sigstore": ""}
    if member["type"] == "signedBy":
        keys = [member["keyPath"]] if "keyPath" in member else member.get("keyPaths", [])
        row["gpgId"] = ", ".join(filter(None, map(_owner, keys)))
        if transport == "repository":
            row["sigstore"] = _storage(paths, scope)
    elif member["type"] == "sigstoreSigned":
        row["gpgId"] = "N/A"
    return row


def _storage(paths: Paths, scope: str) -> str:
    found = lookaside.Lookaside(paths).of_scope(scope)
    return str(found.get("lookaside") or found.get("sigstore") or "")


def _owner(path: str) -> str:
    """The addresses of the keys in a file."""
    program = find_program("gpg")
    if not program:
        return ""
    words = [program, "--batch", "--no-options", "--with-colons", "--show-keys", path]
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    users = re.findall(r"^uid:(?:[^:]*:){8}([^:]*):", done.stdout.decode(errors="replace"), re.MULTILINE)
    return ", ".join(user.partition("<")[2].rstrip(">") or user for user in users)


def change(engine: Engine, scope: str, kind: str, keys: list[str]) -> str:
    """Set what *scope* ("default", a registry, a repository) needs; the file that says so.

    *kind*: of :data:`TYPES`; *keys*: files of public keys. Raises UsageError, NotFoundError, RlError.
    """
    if kind not in TYPES:
        raise UsageError(f"trust type {kind!r}", f"it is one of {', '.join(TYPES)}")
    wanted = TYPES[kind]
    signed = wanted in ("signedBy", "sigstoreSigned")
    if signed != bool(keys):
        raise UsageError(f"trust type {kind}: {'no' if signed else 'needs no'} public keys", "--pubkeysfile FILE")
    for path in keys:
        if not os.path.isfile(path):
            raise NotFoundError(f"--pubkeysfile {path}: no such file")
    members: list[dict[str, Any]] = [{"type": wanted}]
    if wanted == "signedBy":
        members = [{"type": wanted, "keyType": "GPGKeys", "keyPath": os.path.abspath(path)} for path in keys]
    elif signed:
        members = [{"type": wanted, "keyPath": os.path.abspath(path)} for path in keys]
    path = policy.file_of(engine.paths)
    document = _policy(path)
    if scope == "default":
        document["default"] = members
    else:
        document.setdefault("transports", {}).setdefault("docker", {})[scope] = members
    own = f"{engine.paths.config}/policy.json"
    try:
        os.makedirs(engine.paths.config, 0o700, exist_ok=True)
        write_atomic(own, (dumps(document) + "\n").encode(), 0o644)
    except OSError as error:
        raise RlError(f"write {own}: {error.strerror}") from None
    return own
