"""rl login: check credentials with the registry, then keep them for later pulls."""

from __future__ import annotations

from rl.errors import RlError, UsageError
from rl.image import registries_conf
from rl.image.certificates import Certificates
from rl.image.credentials import AuthFiles, Credentials
from rl.image.reference import parse
from rl.image.registry import Registry
from rl.image.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def login(
    engine: Engine,
    registry: str = "",
    username: str = "",
    password: str = "",
    *,
    authfile: str = "",
    tls_verify: bool | None = None,
    cert_dir: str = "",
    get_login: bool = False,
    verbose: bool = False,
) -> str:
    """Log in to *registry* (host, or host/namespace; "": the first search registry); what to tell the user.

    With *get_login* only the name of the stored user is returned. Without a user name the stored
    credentials are checked again. Nothing is stored unless the registry accepted it.
    Raises UsageError, AuthenticationError, RegistryError, RlError.
    """
    key = normalize(engine, registry)
    host, _, namespace = key.partition("/")
    files = AuthFiles(engine.paths, authfile)
    stored = files.find(host, namespace)
    if get_login:
        if not stored or not stored.username:
            raise RlError(f"not logged into {key}", f"rl login {key}")
        return stored.username
    if bool(username) != bool(password):
        raise UsageError("a login needs a user name and a password", "give --username and --password-stdin")
    if not username and (not stored or not stored.username):
        raise UsageError(f"not logged into {key}, and no user name was given", "give --username and --password-stdin")
    credentials = Credentials(username, password) if username else stored
    assert credentials is not None
    _check(engine, host, credentials, tls_verify, cert_dir)
    place = credentials.source if credentials is stored else files.store(key, credentials)
    note = "Existing credentials are valid. " if credentials is stored else ""
    used = f"Used: {place}\n" if verbose else ""
    return f"{used}{note}Login Succeeded!"


def _check(engine: Engine, host: str, credentials: Credentials, tls_verify: bool | None, cert_dir: str) -> None:
    conf = registries_conf.load(engine.paths)
    insecure = tls_verify is False or (tls_verify is None and conf.is_insecure(host))
    transport = Transport(Certificates(engine.paths, cert_dir), verify=not insecure)
    try:
        Registry(host, transport, credentials, insecure=insecure, strict=tls_verify is True).check_login()
    finally:
        transport.close()


def normalize(engine: Engine, registry: str) -> str:
    """The key under which credentials for *registry* are kept. Raises UsageError."""
    if not registry:
        search = registries_conf.load(engine.paths).search
        if not search:
            raise UsageError("no registry was given, and no search registry is configured", "rl login docker.io")
        registry = search[0]
    bare = (registry.partition("://")[2] or registry).rstrip("/")
    host, slash, namespace = bare.partition("/")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host, slash, namespace = "docker.io", "", ""
    # The grammar of references tells whether it is a host; "x/" makes a name that Docker Hub does not complete.
    probe = host if "." in host or ":" in host or host == "localhost" else f"{host}:443"
    try:
        parse(f"{probe}/x/{namespace or 'y'}")
    except UsageError as error:
        raise UsageError(f"{registry!r} is not a registry", error.hint) from None
    return f"{host}{slash}{namespace}"
