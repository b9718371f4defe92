"""Every command that speaks to a registry takes the same flags: --creds, --authfile, --cert-dir, --tls-verify."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from support.registry import Registry
from system.conftest import Rl, unique_user

#: {host} is the registry; what comes before an entry makes what it needs.
COMMANDS = {
    "push": "push -q {flags} busybox {host}/own:1",
    "pull": "pull -q {flags} {host}/own:1",
    "build": "build -q --pull=always {flags} -f Containerfile context",
    "search": "search {flags} {host}/own",
    "manifest create": "manifest create --amend {flags} made docker://{host}/own:1",
    "manifest add": "manifest add {flags} made docker://{host}/own:1",
    "manifest push": "manifest push -q {flags} made docker://{host}/list:1",
    "manifest inspect": "manifest inspect {flags} docker://{host}/list:1",
    "artifact push": "artifact push -q {flags} {host}/thing:1",
    "artifact pull": "artifact pull -q {flags} {host}/thing:1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("flags"), tls=True, users={"ann": "secret"}) as made:
        yield made


@pytest.fixture(scope="module")
def rl(busybox_archive: Path, server: Registry) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-flags"))
    tool.ok("load", "-q", "-i", busybox_archive)
    home = tool.user.home
    (home / "trust").mkdir(exist_ok=True)
    assert server.ca is not None
    shutil.copy(server.ca, home / "trust/ca.crt")
    (home / "trust/ca.crt").chmod(0o644)
    word = base64.b64encode(b"ann:secret").decode()
    (home / "auth.json").write_text(json.dumps({"auths": {server.host: {"auth": word}}}))
    (home / "context").mkdir(exist_ok=True)
    (home / "context/Containerfile").write_text(f"FROM {server.host}/own:1\nLABEL a=b\n")
    (home / "thing").write_text("a thing\n")
    tool.ok("artifact", "add", f"{server.host}/thing:1", "thing")
    tool.ok("manifest", "create", "made", "busybox")
    yield tool
    users.wipe(tool.user)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags(rl: Rl, server: Registry, command: str) -> None:
    def words(flags: str) -> list[str]:
        return COMMANDS[command].format(flags=flags, host=server.host).split()

    for flags in ("--creds ann:secret --cert-dir trust", "--authfile auth.json --tls-verify=false"):
        done = rl(*words(flags))
        assert done.returncode == 0, (flags, done.stderr)
    for flags, says in (
        ("--creds ann:wrong --cert-dir trust", ("authentication", "password", "unauthorized")),
        ("--tls-verify=false", ("authentication", "login", "unauthorized")),
        ("--creds ann:secret", ("certificate",)),
        ("--authfile nosuch.json", ("nosuch.json",)),
        ("--creds ann:secret --cert-dir nosuch", ("nosuch", "certificate")),
    ):
        done = rl(*words(flags))
        assert done.returncode == 125 and "Traceback" not in done.stderr, (flags, done.stderr)
        assert any(word in done.stderr.lower() for word in says), (flags, done.stderr)
