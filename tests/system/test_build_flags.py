"""`rl build`: flags that change the image itself or what RUN sees; and some of rl images, rmi and save."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import users
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-buildflags"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)


def _image(rl: Rl, text: str, *flags: str) -> dict[str, Any]:
    """The image's document, as `rl image inspect` shows it."""
    found = rl.ok("build", "-q", *flags, "-", input=text)
    return dict(json.loads(rl.ok("image", "inspect", found))[0])


def test_names_and_labels(rl: Rl) -> None:
    given = rl.user.home / "arguments"
    given.write_text("# values\nONE=1\nTWO=2 words\n")
    text = "FROM busybox\nARG ONE\nARG TWO\nENV FIRST=$ONE SECOND=$TWO\nLABEL a=1 b=2\n"
    image = _image(rl, text, "--build-arg-file", "arguments", "--build-arg", "ONE=other", "--unsetlabel", "a", "--unsetenv", "SECOND")
    assert image["Labels"] == {"b": "2"} and "FIRST=other" in image["Config"]["Env"]
    assert not [word for word in image["Config"]["Env"] if word.startswith("SECOND")]
    features = _image(rl, text, "--os-feature", "win32k", "--os-version", "10.0")
    document = json.loads(_config(rl, features["Id"]))
    assert (document["os.features"], document["os.version"]) == (["win32k"], "10.0")


def _config(rl: Rl, image: str) -> str:
    place = rl.user.home / "config"
    shutil.rmtree(place, ignore_errors=True)
    rl.ok("save", "-q", "--format", "oci-dir", "-o", place, image)
    return (place / "blobs/sha256" / image).read_text()


def test_history_and_times(rl: Rl) -> None:
    text = "FROM busybox\nRUN echo x > /x\n"
    assert not json.loads(_config(rl, _image(rl, text, "--omit-history")["Id"])).get("history")
    image = _image(rl, text, "--no-cache", "--source-date-epoch", "1000000000")
    assert image["Created"].startswith("2001-09-09T01:46:40")


def test_what_changes_nothing(rl: Rl) -> None:
    """Flags that are there for the scripts of others: the same image."""
    text = "FROM busybox\nRUN echo same > /same\n"
    plain = _image(rl, text)["Id"]
    for flag in ("--force-rm", "--rm", "--disable-compression", "-D", "--identity-label=false", "--compress", "--disable-content-trust"):
        assert _image(rl, text, flag)["Id"] == plain, flag
    for flag, said in (("--identity-label", "adds no label"), ("--disable-compression=false", "plain")):
        done = rl("build", "-q", flag, "-", input=text)
        assert done.returncode == 125 and said in done.stderr


def test_what_run_sees(rl: Rl) -> None:
    flags = ["--dns", "192.0.2.7", "--dns-option", "ndots:3", "--dns-search", "example.org", "--no-cache"]
    output = rl.ok("build", *flags, "-", input="FROM busybox\nRUN cat /etc/resolv.conf\n")
    assert "nameserver 192.0.2.7" in output and "options ndots:3" in output and "search example.org" in output
    context = rl.user.home / "stdin"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text("FROM busybox\nRUN wc -c\n")
    assert "\n5\n" in rl.ok("build", "--no-cache", "--stdin", context, input="12345")
    assert "\n0\n" in rl.ok("build", "--no-cache", context, input="12345")


def test_images_shows_digests_and_former_names(rl: Rl) -> None:
    rl.ok("tag", "busybox", "former")
    rl.ok("untag", "former", "former")
    rl.ok("tag", "busybox", "later")
    table = rl.ok("images", "--digests", "--history", "later").splitlines()
    assert "DIGEST" in table[0] and "HISTORY" in table[0] and "sha256:" in table[1] and "localhost/later:latest" in table[1]
    rl.ok("untag", "busybox", "later")


def test_rmi_keeps_parents_where_told(rl: Rl) -> None:
    parent = rl.ok("build", "-q", "-", input="FROM busybox\nRUN echo parent > /p\n")
    for flags, left in (([], False), (["--no-prune"], True)):
        again = rl.ok("build", "-q", "-", input="FROM busybox\nRUN echo parent > /p\n")
        assert again == parent
        rl.ok("build", "-q", "-t", "child", "-", input="FROM busybox\nRUN echo parent > /p\nRUN echo child > /c\n")
        rl.ok("rmi", *flags, "child")
        assert (parent in rl.ok("images", "-a", "-q", "--no-trunc").replace("sha256:", "").split()) is left, flags


def test_saved_without_compression(rl: Rl) -> None:
    kinds = []
    for flags in ([], ["--uncompressed"]):
        place = rl.user.home / "saved"
        shutil.rmtree(place, ignore_errors=True)
        rl.ok("save", "-q", "--format", "oci-dir", *flags, "-o", place, "busybox")
        index = json.loads((place / "index.json").read_text())
        manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
        kinds.append(manifest["layers"][0]["mediaType"].rpartition(".")[2])
    assert kinds == ["tar+gzip", "tar"]
