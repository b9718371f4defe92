"""Certificates, passwords and tokens: what is accepted, where it comes from, and what a user is told."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from rl.engine.context import Engine
from rl.engine.login import login
from rl.engine.logout import logout
from rl.engine.pull import pull
from rl.errors import AuthenticationError, RegistryError, RlError, UsageError
from rl.image.auth import parse_challenges
from rl.image.credentials import AuthFiles
from rl.image.transport import PlainTextError, UntrustedError
from support.faulty import Faulty
from support.registry import Image, Registry, layer

HELLO = layer({"hello": b"hello\n"})
ANN = "ann:secret"


@pytest.fixture(scope="module")
def image(secure: Registry) -> Image:
    return secure.push([HELLO], "team/app:1")


def trust(engine: Engine, registry: Registry) -> None:
    directory = Path(engine.paths.config, "certs.d", registry.host)
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(registry.ca.read_bytes())


def auths(path: Path, **entries: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {key: {"auth": base64.b64encode(value.encode()).decode()} for key, value in entries.items()}
    path.write_text(json.dumps({"auths": document}))
    return path


# TLS


def test_untrusted(engine: Engine, secure: Registry, image: Image) -> None:
    for verify in (None, True):
        with pytest.raises(UntrustedError, match="not trusted") as caught:
            pull(engine, f"{secure.host}/team/app:1", creds=ANN, tls_verify=verify)
        assert f"certs.d/{secure.host}/ca.crt" in caught.value.hint
        assert "--tls-verify=false" in caught.value.hint


def test_ways_to_trust(engine: Engine, secure: Registry, image: Image) -> None:
    name = f"{secure.host}/team/app:1"
    assert pull(engine, name, creds=ANN, tls_verify=False)[0]["id"] == image.id
    assert pull(engine, name, creds=ANN, cert_dir=str(secure.cert_dir))[0]["id"] == image.id
    conf = Path(engine.paths.config, "registries.conf")
    conf.write_text(f'[[registry]]\nlocation = "{secure.host}"\ninsecure = true\n')
    assert pull(engine, name, creds=ANN)[0]["id"] == image.id
    with pytest.raises(UntrustedError):
        pull(engine, name, creds=ANN, tls_verify=True)
    conf.unlink()
    trust(engine, secure)
    assert pull(engine, name, creds=ANN)[0]["id"] == image.id


def test_plain_registry(engine: Engine, plain: Registry) -> None:
    plain.push([HELLO], "plain:1")
    pull(engine, f"{plain.host}/plain:1")
    pull(engine, f"{plain.host.replace('127.0.0.1', 'localhost')}/plain:1")
    with pytest.raises(PlainTextError, match="does not speak TLS") as caught:
        pull(engine, f"{plain.host}/plain:1", tls_verify=True)
    assert "insecure = true" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"client.cert": "x"}, "has no key"),
        ({"client.key": "x"}, "has no certificate"),
        ({"ca.crt": "no certificate"}, "load .*ca.crt"),
    ],
)
def test_broken_certs_d(engine: Engine, secure: Registry, files: dict[str, str], message: str) -> None:
    directory = Path(engine.paths.config, "certs.d", secure.host)
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    with pytest.raises(RegistryError, match=message):
        pull(engine, f"{secure.host}/team/app:1")
    with pytest.raises(RegistryError, match="no such directory"):
        pull(engine, f"{secure.host}/team/app:1", cert_dir="/nonexistent")


# passwords


def test_without_and_with_wrong_credentials(engine: Engine, secure: Registry, image: Image) -> None:
    trust(engine, secure)
    name = f"{secure.host}/team/app:1"
    with pytest.raises(AuthenticationError, match="wants credentials") as caught:
        pull(engine, name)
    assert f"rl login {secure.host}" in caught.value.hint
    with pytest.raises(AuthenticationError, match="refuses the credentials of ann"):
        pull(engine, name, creds="ann:wrong")
    with pytest.raises(UsageError, match="--creds"):
        pull(engine, name, creds="ann")


def test_files(engine: Engine, secure: Registry, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(engine, secure)
    name = f"{secure.host}/team/app:1"
    places = AuthFiles(engine.paths).files
    assert len(places) == 4
    for place in places:
        auths(Path(place), **{secure.host: ANN})
        assert pull(engine, name)[0]["id"] == image.id
        os.unlink(place)
    with pytest.raises(AuthenticationError):
        pull(engine, name)
    auths(Path(places[0]), **{secure.host: "ann:wrong"})
    own = auths(Path(engine.paths.data, "own.json"), **{secure.host: ANN})
    assert pull(engine, name, authfile=str(own))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(own))
    assert pull(engine, name)
    with pytest.raises(UsageError, match="no such file"):
        pull(engine, name, authfile="/nonexistent")


def test_longest_key_wins(engine: Engine) -> None:
    files = AuthFiles(engine.paths)
    stored = {"r.io": "host:1", "r.io/team": "team:2", "r.io/team/app": "app:3", "https://old.io/v1/": "old:4"}
    auths(Path(files.primary), **stored)
    wanted = {"team/app": "app", "team/app/x": "app", "team/other": "team", "teamwork": "host", "": "host"}
    for repository, user in wanted.items():
        found = files.find("r.io", repository)
        assert found
        assert found.username == user
    assert files.find("q.io", "team/app") is None
    old = files.find("old.io")
    assert old
    assert old.username == "old"


def test_docker_hub_has_many_names(engine: Engine) -> None:
    files = AuthFiles(engine.paths)
    auths(Path(files.files[2]), **{"https://index.docker.io/v1/": "me:pw"})
    found = files.find("docker.io", "library/nginx")
    assert found
    assert (found.username, found.password) == ("me", "pw")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": [1]}', '{"auths": {"r.io": 1}}', '{"auths": {"r.io": {"auth": "%%"}}}']
)
def test_broken_file_is_named(engine: Engine, text: str) -> None:
    files = AuthFiles(engine.paths)
    Path(files.primary).parent.mkdir(parents=True)
    Path(files.primary).write_text(text)
    with pytest.raises(RlError) as caught:
        files.find("r.io")
    assert files.primary in caught.value.message


def helper(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    program = directory / f"docker-credential-{name}"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)


STORE = """
case $1 in
store) cat > "$0.kept" ;;
get) read server; cat "$0.kept" 2>/dev/null && exit 0; echo credentials not found in native keychain; exit 1 ;;
erase) rm "$0.kept" ;;
list) echo '{}' ;;
esac
"""


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_helpers(
    engine: Engine, secure: Registry, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    trust(engine, secure)
    helper(tmp_path / "bin", "kept", STORE)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    path = Path(AuthFiles(engine.paths).primary)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({key: "kept" if key == "credsStore" else {secure.host: "kept"}}))
    with pytest.raises(AuthenticationError, match="wants credentials"):
        pull(engine, f"{secure.host}/team/app:1")
    login(engine, secure.host, "ann", "secret")
    assert "auths" not in json.loads(path.read_text())
    assert pull(engine, f"{secure.host}/team/app:1")[0]["id"] == image.id
    logout(engine, secure.host)
    with pytest.raises(RlError, match="not logged into"):
        logout(engine, secure.host)


@pytest.mark.parametrize(("script", "message"), [("echo locked >&2; exit 2", "locked"), ("echo nonsense", "not JSON")])
def test_broken_helper(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    helper(tmp_path / "bin", "broken", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    files = AuthFiles(engine.paths)
    Path(files.primary).parent.mkdir(parents=True)
    Path(files.primary).write_text(json.dumps({"credHelpers": {"r.io": "broken", "s.io": "not-installed"}}))
    with pytest.raises(RlError, match=message):
        files.find("r.io")
    with pytest.raises(RlError, match="docker-credential-not-installed: not installed"):
        files.find("s.io")
    assert files.find("t.io") is None


def test_docker_desktop_left_its_store_behind(engine: Engine) -> None:
    files = AuthFiles(engine.paths)
    path = auths(Path(files.files[2]), **{"r.io": "ann:pw"})
    path.write_text(json.dumps({**json.loads(path.read_text()), "credsStore": "desktop-that-is-gone"}))
    assert files.find("docker.io") is None
    found = files.find("r.io")
    assert found
    assert found.username == "ann"


# login, logout


def test_login(engine: Engine, secure: Registry, image: Image) -> None:
    trust(engine, secure)
    path = Path(AuthFiles(engine.paths).primary)
    with pytest.raises(AuthenticationError, match="refuses the credentials of ann"):
        login(engine, secure.host, "ann", "wrong")
    assert not path.exists()
    assert login(engine, f"https://{secure.host}/", "ann", "secret") == "Login Succeeded!"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert login(engine, secure.host, get_login=True) == "ann"
    assert "Existing credentials are valid" in login(engine, secure.host)
    assert f"Used: {path}" in login(engine, f"{secure.host}/team", "bob", "hidden", verbose=True)
    assert login(engine, f"{secure.host}/team", get_login=True) == "bob"
    assert pull(engine, f"{secure.host}/team/app:1")[0]["id"] == image.id
    assert logout(engine, f"{secure.host}/team") == f"Removed login credentials for {secure.host}/team"
    assert login(engine, f"{secure.host}/team", get_login=True) == "ann"
    assert logout(engine, all=True) == "Removed login credentials for all registries"
    with pytest.raises(RlError, match="not logged into"):
        login(engine, secure.host, get_login=True)
    with pytest.raises(RlError, match="not logged into"):
        logout(engine, secure.host)


def test_login_refuses(engine: Engine) -> None:
    for registry, user, password in (
        ("r.io", "ann", ""),
        ("r.io", "", "x"),
        ("r.io", "", ""),
        ("bad name!", "ann", "x"),
    ):
        with pytest.raises(UsageError):
            login(engine, registry, user, password)
    with pytest.raises(RegistryError, match="connection refused"):
        login(engine, "127.0.0.1:1", "ann", "x")


def test_login_keeps_what_docker_stored(engine: Engine) -> None:
    files = AuthFiles(engine.paths)
    auths(Path(files.files[2]), **{"r.io": "docker:pw"})
    assert "docker logout" in logout(engine, "r.io")
    assert files.find("r.io")


# tokens


def test_anonymous_token(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "token/app:1")
    with Faulty(plain, tokens=True) as faulty:
        assert pull(engine, f"{faulty.host}/token/app:1")[0]["id"] == image.id
        assert faulty.token_requests == [({"service": ["test, service"], "scope": ["repository:token/app:pull"]}, "")]
        assert "authorization" not in faulty.requests[0][1]


def test_token_for_credentials(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "token/app:1")
    with Faulty(plain, tokens=True, users={"ann": "secret"}) as faulty:
        with pytest.raises(AuthenticationError, match="refuses the credentials of ann"):
            pull(engine, f"{faulty.host}/token/app:1", creds="ann:wrong")
        assert pull(engine, f"{faulty.host}/token/app:1", creds=ANN)[0]["id"] == image.id
        query, sent = faulty.token_requests[-1]
        assert query["account"] == ["ann"]
        assert base64.b64decode(sent.removeprefix("Basic ")) == ANN.encode()
        assert login(engine, faulty.host, "ann", "secret") == "Login Succeeded!"
        with pytest.raises(AuthenticationError):
            login(engine, faulty.host, "ann", "nope")


def test_identity_token(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "token/app:1")
    with Faulty(plain, tokens=True, users={"ann": "secret"}) as faulty:
        path = Path(AuthFiles(engine.paths).primary)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"auths": {faulty.host: {"identitytoken": "identity"}}}))
        assert pull(engine, f"{faulty.host}/token/app:1")[0]["id"] == image.id
        query, _ = faulty.token_requests[-1]
        assert (query["grant_type"], query["refresh_token"]) == (["refresh_token"], ["identity"])


def test_token_that_expires_early_is_renewed(engine: Engine, plain: Registry) -> None:
    image = plain.push([layer({f"f{n}": bytes([n]) * 1000}) for n in range(8)], "token/many:1")
    with Faulty(plain, tokens=True) as faulty:
        faulty.token_uses = 3
        assert pull(engine, f"{faulty.host}/token/many:1")[0]["id"] == image.id
        assert len(faulty.token_requests) >= 3
    with Faulty(plain, tokens=True) as faulty:
        faulty.token_uses = 0
        with pytest.raises(AuthenticationError, match="wants credentials"):
            pull(engine, f"{faulty.host}/token/many:1")


def test_token_server_in_trouble(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "token/app:1")
    with Faulty(plain, tokens=True) as faulty:
        faulty.add("^/token", "status", 503, 2)
        assert pull(engine, f"{faulty.host}/token/app:1", retry_delay=0.01)[0]["id"] == image.id
        faulty.add("^/token", "status", 500, 99)
        with pytest.raises(RegistryError, match=r"get a token for .* 500 Internal Server Error"):
            pull(engine, f"{faulty.host}/token/app:1", retry=1, retry_delay=0.01)


def test_token_over_an_open_line(engine: Engine) -> None:
    """A token server without TLS gets no credentials, unless TLS was waived."""
    from rl.image.auth import Authorizer
    from rl.image.certificates import Certificates
    from rl.image.credentials import Credentials
    from rl.image.transport import Transport

    authorizer = Authorizer("r.io", Transport(Certificates(engine.paths)), Credentials("ann", "secret"))
    assert authorizer.challenged('Bearer realm="http://tokens.example/t"', "s", "")
    with pytest.raises(RegistryError, match="not encrypted"):
        authorizer.header("s")


CHALLENGES = [
    ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
     [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
    ('Basic realm="r"', [("basic", {"realm": "r"})]),
    ('Basic realm="a, b", Bearer realm="https://c",error="invalid_token"',
     [("basic", {"realm": "a, b"}), ("bearer", {"realm": "https://c", "error": "invalid_token"})]),
    ('BEARER Realm = "x\\"y" , service=plain', [("bearer", {"realm": 'x"y', "service": "plain"})]),
    ("Negotiate, Basic realm=r", [("negotiate", {}), ("basic", {"realm": "r"})]),
    ("", []), ('"', []), ("=", []),
]  # fmt: skip


@pytest.mark.parametrize(("header", "expected"), CHALLENGES)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, found.parameters) for found in parse_challenges(header)] == expected
