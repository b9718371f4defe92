"""registries.conf and policy.json, from their files to decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.errors import AuthenticationError, NoSuchImageError, RlError, UsageError, VerificationError
from rl.image import policy, registries_conf
from rl.image.reference import parse
from rl.image.registries_conf import RegistriesConf
from rl.image.signatures import matches

D = "sha256:" + "a" * 64


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "user").mkdir()
    (tmp_path / "system/registries.conf.d").mkdir(parents=True)
    return Paths(str(tmp_path / "data"), str(tmp_path / "run"), str(tmp_path / "user"), str(tmp_path / "cache/rl"))


def load(paths: Paths, text: str = "", **environ: str) -> RegistriesConf:
    if text:
        Path(paths.config, "registries.conf").write_text(text)
    return registries_conf.load(paths, environ, system=str(Path(paths.config).parent / "system"))


@pytest.fixture(autouse=True)
def no_remembered_aliases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registries_conf, "aliases_file", lambda paths: str(tmp_path / "aliases.conf"))


def asked(conf: RegistriesConf, name: str) -> list[str]:
    return [f"{end.host}/{end.repository} {end.which}" for end in conf.endpoints(parse(name).with_default_tag())]


TABLES = """
[[registry]]
prefix = "a.io/team"
location = "b.io:5000/deep/er"
insecure = true
[[registry]]
prefix = "a.io/team/app"
location = "c.io/x"
[[registry]]
location = "host.io"
[[registry.mirror]]
location = "m1.io/p"
insecure = true
[[registry.mirror]]
location = "m2.io"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m3.io"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "*.wild.io"
[[registry.mirror]]
location = "m4.io/w"
[[registry]]
location = "digests.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m5.io"
[[registry]]
location = "bad.io"
blocked = true
[[registry]]
prefix = "docker.io/library"
location = "hub.io/mirror"
[[registry]]
prefix = "exact.io/app:1"
location = "other.io/app:2"
"""

REWRITES = [
    ("a.io/team/x:1", ["b.io:5000/deep/er/x 1"]),
    ("a.io/teamwork:1", ["a.io/teamwork 1"]),
    ("a.io/team/app/y", ["c.io/x/y latest"]),
    ("a.io/team/app:2", ["c.io/x 2"]),
    (f"a.io/team/app:2@{D}", [f"c.io/x {D}"]),
    ("host.io/a:1", ["m1.io/p/a 1", "m3.io/a 1", "host.io/a 1"]),
    (f"host.io/a@{D}", [f"m1.io/p/a {D}", f"m2.io/a {D}", f"host.io/a {D}"]),
    ("host.io:5000/a:1", ["host.io:5000/a 1"]),
    ("q.wild.io/a/b:1", ["m4.io/w/a/b 1", "q.wild.io/a/b 1"]),
    ("q.r.wild.io:80/a:1", ["m4.io/w/a 1", "q.r.wild.io:80/a 1"]),
    ("wild.io/a:1", ["wild.io/a 1"]),
    ("digests.io/a:1", ["digests.io/a 1"]),
    (f"digests.io/a@{D}", [f"m5.io/a {D}", f"digests.io/a {D}"]),
    ("docker.io/nginx", ["hub.io/mirror/nginx latest"]),
    ("docker.io/team/nginx", ["docker.io/team/nginx latest"]),
    ("exact.io/app:1", ["other.io/app 2"]),
    ("exact.io/app:3", ["exact.io/app 3"]),
]


@pytest.mark.parametrize(("name", "expected"), REWRITES)
def test_endpoints(paths: Paths, name: str, expected: list[str]) -> None:
    assert asked(load(paths, TABLES), name) == expected


def test_insecure_and_blocked(paths: Paths) -> None:
    conf = load(paths, TABLES)
    assert [end.insecure for end in conf.endpoints(parse("host.io/a:1"))] == [True, False, False]
    assert [end.mirror for end in conf.endpoints(parse("host.io/a:1"))] == [True, True, False]
    assert conf.is_insecure("a.io/team/x")
    assert not conf.is_insecure("a.io/team/app")
    with pytest.raises(AuthenticationError, match=r"bad\.io is blocked"):
        conf.endpoints(parse("bad.io/x:1"))


def test_short_names(paths: Paths) -> None:
    with pytest.raises(NoSuchImageError) as caught:
        load(paths).candidates(parse("nginx"))
    assert "docker.io/library/nginx" in caught.value.hint
    conf = load(paths, 'unqualified-search-registries = ["docker.io", "q.io"]\n[aliases]\n"py" = "p.io/python"\n')
    assert [str(name) for name in conf.candidates(parse("nginx:1"))] == ["docker.io/library/nginx:1", "q.io/nginx:1"]
    assert [str(name) for name in conf.candidates(parse("py:3"))] == ["p.io/python:3"]
    assert [str(name) for name in conf.candidates(parse(f"py@{D}"))] == [f"p.io/python@{D}"]
    assert [str(name) for name in conf.candidates(parse("r.io/py"))] == ["r.io/py"]


def test_files_override_in_order(paths: Paths) -> None:
    system = Path(paths.config).parent / "system"
    (system / "registries.conf").write_text('unqualified-search-registries = ["system.io"]\n')
    assert load(paths).search == ["system.io"]
    (system / "registries.conf.d/10.conf").write_text(
        'unqualified-search-registries = ["ten.io"]\n[aliases]\na = "ten.io/a"\nb = "ten.io/b"\n'
    )
    (system / "registries.conf.d/20.conf").write_text('[aliases]\na = "twenty.io/a"\nb = ""\n')
    (system / "registries.conf.d/30.txt").write_text("not read")
    conf = load(paths)
    assert conf.search == ["ten.io"]
    assert conf.aliases == {"a": "twenty.io/a"}
    conf = load(paths, '[aliases]\nc = "user.io/c"\n')
    assert conf.aliases == {"a": "twenty.io/a", "c": "user.io/c"}
    only = Path(paths.config, "only.conf")
    only.write_text('short-name-mode = "disabled"\n')
    conf = load(paths, CONTAINERS_REGISTRIES_CONF=str(only))
    assert (conf.mode, conf.search, conf.aliases) == ("disabled", [], {})


def test_remembered_alias(paths: Paths) -> None:
    registries_conf.remember_alias(paths, parse("team/app"), parse("q.io/team/app:1"))
    registries_conf.remember_alias(paths, parse("b"), parse("q.io/b"))
    assert load(paths).aliases == {"team/app": "q.io/team/app", "b": "q.io/b"}


def test_version1(paths: Paths) -> None:
    conf = load(paths, '[registries.search]\nregistries = ["s.io"]\n[registries.insecure]\nregistries = ["i.io"]\n'
                '[registries.block]\nregistries = ["b.io"]\n')  # fmt: skip
    assert conf.search == ["s.io"]
    assert conf.is_insecure("i.io/x")
    with pytest.raises(AuthenticationError):
        conf.endpoints(parse("b.io/x"))


@pytest.mark.parametrize(
    "text",
    [
        "=", 'unqualified-search-registries = "x"', 'short-name-mode = "perhaps"', "[registry]", "[[registry]]",
        '[[registry]]\nlocation = "https://x.io"', '[[registry]]\nlocation = "x.io"\ninsecure = "yes"',
        '[[registry]]\nprefix = "*.x.io/y"', '[[registry]]\nlocation = "x.io"\n[[registry.mirror]]\n',
        '[[registry]]\nlocation = "x.io"\n[[registry.mirror]]\nlocation = "y.io"\npull-from-mirror = "x"',
        '[aliases]\na = "b"', '[aliases]\na = "b.io/c:1"', "[aliases]\na = 1", "[[registry]]\nlocation = 1",
    ],
)  # fmt: skip
def test_broken_file_is_named(paths: Paths, text: str) -> None:
    with pytest.raises(RlError, match=r"registries\.conf") as caught:
        load(paths, text)
    assert caught.value.hint


def test_enforcing(paths: Paths) -> None:
    conf = load(paths, 'short-name-mode = "enforcing"\nunqualified-search-registries = ["a.io", "b.io"]')
    with pytest.raises(UsageError, match=r"a\.io/x or b\.io/x"):
        conf.candidates(parse("x"))
    assert len(conf.candidates(parse("x"), interactive=True)) == 2


# policy.json

ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
SIGNED = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]


def check(paths: Paths, document: Any, name: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    Path(paths.config, "policy.json").write_text(text)
    policy.check_reference(paths, parse(name), system="/nonexistent")


@pytest.mark.parametrize(
    ("scopes", "good"),
    [
        ({}, False), ({"": ACCEPT}, True), ({"": ACCEPT, "r.io": REJECT}, False), ({"r.io": ACCEPT}, True),
        ({"r.io": REJECT, "r.io/team": ACCEPT}, True), ({"r.io/team/app": ACCEPT}, True),
        ({"r.io/team/app:1": ACCEPT, "r.io/team/app": REJECT}, True), ({"r.io/team/app:2": ACCEPT}, False),
        ({"r.io/tea": ACCEPT}, False), ({"*.io": ACCEPT}, True), ({"*.r.io": ACCEPT}, False),
        ({"r.io": [*ACCEPT, *REJECT]}, False),
    ],
)  # fmt: skip
def test_policy_scopes(paths: Paths, scopes: dict[str, Any], good: bool) -> None:
    document = {"default": REJECT, "transports": {"docker": scopes, "atomic": {"": ACCEPT}}}
    if good:
        check(paths, document, "r.io/team/app:1")
    else:
        with pytest.raises(VerificationError, match="rejected by policy"):
            check(paths, document, "r.io/team/app:1")


def test_policy_signatures(paths: Paths) -> None:
    check(paths, {"default": [*ACCEPT, *SIGNED]}, "r.io/x")
    (wanted,) = policy.check_reference(paths, parse("r.io/x"))
    assert (wanted.kind, wanted.identity) == ("signedBy", {"type": "matchRepoDigestOrExact"}) and "policy.json" in wanted.place
    with pytest.raises(VerificationError, match=r"signedBy.*oci: has none"):
        policy.check_unsigned(paths, "oci", [], "oci:x")
    check(paths, {"default": SIGNED, "transports": {"docker": {"r.io": ACCEPT}}}, "r.io/x")
    assert policy.check_reference(paths, parse("r.io/x")) == []


@pytest.mark.parametrize("member", [
    {"type": "signedBy", "keyType": "GPGKeys"}, {"type": "signedBy", "keyType": "X", "keyPath": "/k"},
    {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k", "keyData": "aa=="}, {"type": "signedBy", "keyType": "GPGKeys", "keyPaths": "/k"},
    {"type": "sigstoreSigned", "keyData": "not base64!"}, {"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {"type": "nonsense"}},
    {"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {"type": "remapIdentity", "prefix": "a"}},
    {"type": "sigstoreSigned", "fulcio": {}}, {"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPath": "/r"},
])
def test_requirements_that_are_none(paths: Paths, member: dict[str, Any]) -> None:
    with pytest.raises(RlError, match=r"policy\.json"):
        check(paths, {"default": [member]}, "r.io/x")


@pytest.mark.parametrize(("identity", "name", "signed", "good"), [
    ({"type": "matchExact"}, "r.io/a:1", "r.io/a:1", True), ({"type": "matchExact"}, "r.io/a:1", "r.io/a:2", False),
    ({"type": "matchRepoDigestOrExact"}, "r.io/a:1", "r.io/a:1", True), ({"type": "matchRepoDigestOrExact"}, "r.io/a:1", "r.io/a:2", False),
    ({"type": "matchRepoDigestOrExact"}, f"r.io/a@sha256:{'0' * 64}", "r.io/a:2", True), ({"type": "matchRepoDigestOrExact"}, "r.io/a:1", "r.io/a", False),
    ({"type": "matchRepository"}, "r.io/a:1", "r.io/a:2", True), ({"type": "matchRepository"}, "r.io/a:1", "r.io/b:1", False),
    ({"type": "exactReference", "dockerReference": "x.io/y:1"}, "r.io/a:1", "x.io/y:1", True),
    ({"type": "exactRepository", "dockerRepository": "x.io/y"}, "r.io/a:1", "x.io/y:7", True),
    ({"type": "exactRepository", "dockerRepository": "x.io/y"}, "r.io/a:1", "r.io/a:1", False),
    ({"type": "remapIdentity", "prefix": "r.io", "signedPrefix": "mirror.io/r"}, "r.io/a:1", "mirror.io/r/a:1", True),
    ({"type": "remapIdentity", "prefix": "r.io", "signedPrefix": "mirror.io"}, "r.iot/a:1", "mirror.io/a:1", False),
])
def test_signed_identities(identity: dict[str, Any], name: str, signed: str, good: bool) -> None:
    assert matches(identity, parse(name), signed) == good


def test_policy_of_paths(paths: Paths) -> None:
    document = {"default": ACCEPT, "transports": {"dir": {"/srv/good": ACCEPT, "/srv": REJECT}}}
    Path(paths.config, "policy.json").write_text(json.dumps(document))
    assert policy.check(paths, "dir", policy.path_scopes("/srv/good/image"), "x") == []
    with pytest.raises(VerificationError):
        policy.check(paths, "dir", policy.path_scopes("/srv/good/../image"), "x")


def test_no_policy_accepts(paths: Paths) -> None:
    policy.check_reference(paths, parse("r.io/x"), system="/nonexistent")


@pytest.mark.parametrize(
    "document",
    [
        "{", "[]", {}, {"default": []}, {"default": ACCEPT, "extra": 1}, {"default": [{"type": "perhaps"}]},
        {"default": [{"type": "reject", "why": "x"}]}, {"default": ACCEPT, "transports": []},
        {"default": ACCEPT, "transports": {"docker": {"": []}}}, {"default": [1]},
    ],
)  # fmt: skip
def test_broken_policy_refuses_everything(paths: Paths, document: Any) -> None:
    with pytest.raises(RlError, match=r"policy\.json") as caught:
        check(paths, document, "r.io/x")
    assert not isinstance(caught.value, VerificationError)
