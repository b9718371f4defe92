"""`rl login`: credentials for a registry."""

from __future__ import annotations

import sys

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[REGISTRY]"
ARGUMENTS = (0, 1)
INTERSPERSED = True
OPTIONS = (
    ("--authfile", "value", "PATH", "Credentials file (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cert-dir", "value", "DIR", "Certificates for this registry: *.crt, *.cert, *.key"),
    ("--get-login", "flag", "", "Print the user who is logged in"),
    ("-p --password", "value", "PASSWORD", "Password; others see it in the process list, --password-stdin is safer"),
    ("--password-stdin", "flag", "", "Read the password from standard input"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate (default true)"),
    ("-u --username", "value", "NAME", "User name"),
    ("-v --verbose", "flag", "", "Tell where the credentials are kept"),
)
HELP = "Log in to a registry. Asks for what is not given; nothing is kept unless the registry accepts it."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.login import login

    registry = arguments[0] if arguments else ""
    how = {key: options[key] for key in ("authfile", "cert_dir", "tls_verify") if key in options}
    if options.get("get_login"):
        output.write(login(engine, registry, get_login=True, authfile=options.get("authfile", "")) + "\n")
        return 0
    username, password = _credentials(engine, registry, options)
    output.write(login(engine, registry, username, password, verbose=bool(options.get("verbose")), **how) + "\n")
    return 0


def _credentials(engine: Engine, registry: str, options: dict[str, Any]) -> tuple[str, str]:
    """User name and password: given, read from standard input, or asked for; ("", "") to check the stored ones."""
    username, password = options.get("username", ""), options.get("password", "")
    if options.get("password_stdin"):
        if password:
            raise UsageError("can't specify both --password-stdin and --password", "leave --password out")
        if not username:
            raise UsageError("must provide --username with --password-stdin", "add --username NAME")
        return username, sys.stdin.readline().rstrip("\r\n")
    if username and password:
        return username, password
    if not username and not password and _stored(engine, registry, options):
        return "", ""
    if not sys.stdin.isatty():
        username = username or sys.stdin.readline().rstrip("\r\n")
        return username, password or sys.stdin.readline().rstrip("\r\n")
    from getpass import getpass

    username = username or input("Username: ")
    return username, password or getpass("Password: ")


def _stored(engine: Engine, registry: str, options: dict[str, Any]) -> bool:
    from rl.engine.login import login
    from rl.errors import RlError

    try:
        return bool(login(engine, registry, get_login=True, authfile=options.get("authfile", "")))
    except RlError:
        return False
