"""`rl artifact`: files go to a real registry and come back; others read them; what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from support.registry import Registry
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl() -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-artifacts"))
    yield tool
    users.wipe(tool.user)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("artifacts")) as server:
        yield server


@pytest.fixture
def files(rl: Rl) -> Path:
    directory = rl.user.home / "files"
    rl.user.run("rm", "-rf", directory, check=True)
    directory.mkdir()
    (directory / "model.bin").write_bytes(os.urandom(300_000))
    (directory / "notes.txt").write_text("notes\n")
    os.chown(directory, rl.user.uid, rl.user.gid)
    return directory


def test_to_a_registry_and_back(rl: Rl, plain: Registry, files: Path) -> None:
    name = f"{plain.host}/models/m:1"
    digest = rl.ok("artifact", "add", "--type", "application/x.model", "--annotation", "a=b", name, files / "model.bin")
    appended = rl.ok("artifact", "add", "--append", "--file-type", "text/x-notes", name, files / "notes.txt")
    assert appended != digest
    shown = json.loads(rl.ok("artifact", "inspect", name))
    layers = shown["Manifest"]["layers"]
    assert shown["Digest"] == appended and shown["Manifest"]["artifactType"] == "application/x.model" and [one["mediaType"] for one in layers] == ["application/octet-stream", "text/x-notes"]
    assert layers[0]["annotations"] == {"a": "b", "org.opencontainers.image.title": "model.bin"}
    row = rl.ok("artifact", "ls", "--noheading").split()
    assert len(rl.ok("artifact", "ls", "--no-trunc", "--format", "{{.Digest}}").removeprefix("sha256:")) == 64
    assert row[:3] == [f"{plain.host}/models/m", "1", appended[7:19]]
    assert rl.ok("artifact", "push", "-q", "--digestfile", "digest", name) == appended == (rl.user.home / "digest").read_text()
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], capture_output=True, text=True, check=True).stdout
    assert json.loads(raw) == shown["Manifest"]
    assert rl.ok("artifact", "rm", name) == appended and rl.ok("artifact", "ls", "--noheading") == ""
    assert rl.ok("artifact", "pull", name) == appended
    rl.ok("gc")
    (files / "out").mkdir()
    os.chown(files / "out", rl.user.uid, rl.user.gid)
    rl.ok("artifact", "extract", name, files / "out")
    assert (files / "out/model.bin").read_bytes() == (files / "model.bin").read_bytes() and (files / "out/notes.txt").read_text() == "notes\n"
    rl.ok("artifact", "extract", "--title", "notes.txt", name, files / "alone")
    assert (files / "alone").read_text() == "notes\n"
    rl.ok("artifact", "extract", "--digest", layers[0]["digest"][:20], appended[7:20], files / "by-digest")
    assert rl.ok("artifact", "push", "-q", name, f"{plain.host}/copied:2") == appended
    done = rl("pull", name)
    assert done.returncode == 125 and "rl artifact pull" in done.stderr, done.stderr
    rl.ok("artifact", "rm", "--all")


def test_hostile_titles_stay_inside(rl: Rl, files: Path) -> None:
    rl("artifact", "rm", "--all")
    rl.ok("artifact", "add", "evil", files / "notes.txt")
    (record,) = [path for path in (rl.data / "artifacts").iterdir() if not path.name.startswith(".")]
    digest = json.loads(record.read_text())["manifest"][7:]
    blob = rl.data / "content/blobs/sha256" / digest
    blob.write_text(blob.read_text().replace("notes.txt", "../up.txt"))
    done = rl("artifact", "extract", "evil", files)
    assert done.returncode == 125 and not (files.parent / "up.txt").exists(), done.stderr
    rl.ok("artifact", "rm", "evil")


@pytest.mark.parametrize(("words", "said"), [
    (["add", "x", "/nosuch"], "no such file"),
    (["add", "there", "files/notes.txt"], "already exists"),
    (["add", "--append", "nosuch", "files/notes.txt"], "does not exist"),
    (["add", "--append", "there", "files/notes.txt"], "has a file notes.txt already"),
    (["add", "--append", "--type", "x/y", "there", "files/model.bin"], "neither"),
    (["add", "UPPER", "files/notes.txt"], "hint:"),
    (["add", "x", "files"], "directory"),
    (["extract", "nosuch", "."], "does not exist"),
    (["extract", "--title", "nosuch", "there", "."], "has no file nosuch"),
    (["extract", "--title", "a", "--digest", "b", "there", "."], "say the same"),
    (["inspect", "nosuch"], "does not exist"),
    (["rm"], "--all"),
    (["rm", "there", "nosuch"], "does not exist"),
    (["push", "there"], "not a name in a registry"),
    (["push", "there", "127.0.0.1:1/x"], "127.0.0.1:1"),
    (["pull", "127.0.0.1:1/x"], "127.0.0.1:1"),
])
def test_wrong_inputs(rl: Rl, files: Path, words: list[str], said: str) -> None:
    rl.ok("artifact", "add", "--replace", "there", files / "notes.txt")
    done = rl("artifact", *words)
    assert done.returncode == 125 and said.lower() in done.stderr.lower() and "Traceback" not in done.stderr, done.stderr
    assert "there" in rl.ok("artifact", "ls")
