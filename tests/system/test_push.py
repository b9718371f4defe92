"""`rl push` to real registries: plain, with TLS and passwords; what is there is not sent; errors and what they leave."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.registry import OCI, Registry, layer
from system.conftest import Rl


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("plain")) as server:
        yield server


def _raw(place: str) -> dict[str, object]:
    done = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{place}"],
                          capture_output=True, text=True, timeout=30, check=True)
    return dict(json.loads(done.stdout))


def test_to_its_own_name_and_again(rl: Rl, plain: Registry) -> None:
    name = f"{plain.host}/own/busybox:1"
    rl.ok("tag", "busybox", name)
    digests = rl.user.home / "digest"
    done = rl("push", "--digestfile", digests, name)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "Getting image source signatures" and lines[-1] == "Writing manifest to image destination"
    assert lines[1].startswith("Copying blob sha256:") and lines[2].startswith("Copying config sha256:")
    manifest = _raw(name)
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    again = rl("push", name)
    assert again.returncode == 0 and "already exists" in again.stderr and "config" not in again.stderr
    image_id = rl.ok("images", "-q", "--no-trunc", name).removeprefix("sha256:")
    rl.ok("rmi", "--force", name)
    digest = digests.read_text()
    assert rl.ok("pull", "-q", f"{plain.host}/own/busybox@{digest}") == image_id
    rl.ok("rmi", f"{plain.host}/own/busybox@{digest}")


@pytest.mark.parametrize(("flags", "kind", "layer_kind"), [
    (["--format", "oci"], f"{OCI}.manifest.v1+json", f"{OCI}.layer.v1.tar+gzip"),
    (["-f", "v2s2", "--compression-level", "9"], "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    (["--compression-format", "zstd", "--compression-level", "19"], f"{OCI}.manifest.v1+json", f"{OCI}.layer.v1.tar+zstd"),
])
def test_forms(rl: Rl, plain: Registry, flags: list[str], kind: str, layer_kind: str) -> None:
    place = f"{plain.host}/forms/{abs(hash(tuple(flags)))}"
    rl.ok("push", "-q", "--tls-verify=false", "--retry", "0", "--retry-delay", "1s", *flags, "busybox", f"docker://{place}")
    manifest = _raw(place)
    assert manifest["mediaType"] == kind and [item["mediaType"] for item in manifest["layers"]] == [layer_kind]  # type: ignore[attr-defined]
    assert rl.ok("pull", "-q", place) == rl.ok("images", "-q", "--no-trunc", "busybox").removeprefix("sha256:")
    rl.ok("rmi", place)


def test_what_was_pulled_is_pushed_as_it_is_or_anew(rl: Rl, plain: Registry) -> None:
    image = plain.push([layer({"a": b"first"}), layer({"b": b"second"})], "source:1")
    rl.ok("pull", "-q", f"{plain.host}/source:1")
    rl.ok("push", "-q", "--remove-signatures", "--disable-content-trust", f"{plain.host}/source:1", f"{plain.host}/mounted/here:2")
    assert subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{plain.host}/mounted/here:2"],
                          capture_output=True, text=True, timeout=30).stdout.strip() == image.digest
    rl.ok("push", "-q", "--compression-format", "zstd", "--force-compression", f"{plain.host}/source:1", f"{plain.host}/forced:2")
    forced = _raw(f"{plain.host}/forced:2")
    assert {item["mediaType"] for item in forced["layers"]} == {f"{OCI}.layer.v1.tar+zstd"}  # type: ignore[attr-defined]
    position = "io.github.containers.zstd-chunked.manifest-position"
    for attempt in ("compressed", "remembered"):
        chunked = f"{plain.host}/{attempt}:3"
        rl.ok("push", "-q", "--compression", "zstd:chunked", "--force-compression", f"{plain.host}/source:1", chunked)
        layers = _raw(chunked)["layers"]
        assert all(position in item["annotations"] for item in layers)  # type: ignore[attr-defined]
    # As it was pulled, it keeps its annotations; with other bytes it loses them.
    rl.ok("rmi", "--force", f"{plain.host}/source:1")
    rl.ok("pull", "-q", chunked)
    rl.ok("push", "-q", chunked, f"{plain.host}/kept:4")
    assert _raw(f"{plain.host}/kept:4")["layers"] == layers
    rl.ok("push", "-q", "--compression-format", "gzip", "--force-compression", chunked, f"{plain.host}/gone:5")
    assert [item.get("annotations") for item in _raw(f"{plain.host}/gone:5")["layers"]] == [None, None]  # type: ignore[attr-defined]
    shutil.rmtree(rl.user.home / "chunked", ignore_errors=True)
    rl.ok("push", "-q", "--compression-format", "zstd:chunked", "--force-compression", "busybox", f"oci:{rl.user.home}/chunked")
    index = json.loads((rl.user.home / "chunked/index.json").read_text())
    manifest = json.loads((rl.user.home / "chunked/blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    assert position in manifest["layers"][0]["annotations"]
    rl.ok("rmi", "--force", chunked)


def test_tls_and_passwords(rl: Rl, tmp_path: Path) -> None:
    with Registry(tmp_path, tls=True, users={"ann": "secret"}) as server:
        trust = rl.user.home / "trust"
        shutil.rmtree(trust, ignore_errors=True)
        trust.mkdir()
        (trust / "ca.crt").write_bytes(server.ca.read_bytes())
        place = f"{server.host}/private/x"
        for flags, code, words in (
            ([], 125, "certificate"),
            (["--cert-dir", trust], 125, f"rl login {server.host}"),
            (["--cert-dir", trust, "--creds", "ann:wrong"], 125, "refuses the credentials"),
            (["--cert-dir", trust, "--creds", "ann:secret"], 0, "Writing manifest"),
        ):
            done = rl("push", *flags, "busybox", place)
            assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        auth = rl.user.home / "auth.json"
        rl.ok("login", "--authfile", auth, "--cert-dir", trust, "-u", "ann", "-p", "secret", server.host)
        rl.ok("push", "-q", "--authfile", auth, "--cert-dir", trust, "busybox", place)


@pytest.mark.parametrize(("kind", "name"), [("oci", ":tag"), ("oci-archive", ":tag"), ("docker-archive", ":x/y:z"), ("dir", "")])
def test_to_places_on_this_machine(rl: Rl, kind: str, name: str) -> None:
    path = rl.user.home / f"pushed-{kind}"
    subprocess.run(["rm", "-rf", path], check=True, timeout=20)
    rl.ok("push", "-q", *(["--compress"] if kind == "dir" else []), "busybox", f"{kind}:{path}{name}")
    found = subprocess.run(["skopeo", "inspect", "--config", f"{kind}:{path}{name}"], capture_output=True, text=True, timeout=30)
    assert found.returncode == 0 and json.loads(found.stdout)["config"]["Cmd"] == ["sh"], found.stderr


@pytest.mark.parametrize(("place", "flags", "media_type"), [
    ("oci", ["--compression-format", "zstd", "--compression-level", "7"], f"{OCI}.layer.v1.tar+zstd"),
    ("oci-archive", ["--format", "oci"], f"{OCI}.layer.v1.tar+gzip"),
    ("dir", ["--format", "oci", "--compression-format", "zstd"], f"{OCI}.layer.v1.tar+zstd"),
    ("dir", ["--format", "v2s2", "--compress"], "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ("dir", ["--format", "v2s2"], "application/vnd.docker.image.rootfs.diff.tar"),
])
def test_forms_on_this_machine(rl: Rl, place: str, flags: list[str], media_type: str) -> None:
    where = f"{place}:{rl.user.home}/formed"
    subprocess.run(["rm", "-rf", rl.user.home / "formed"], check=True, timeout=20)
    digest = rl.user.home / "formed-digest"
    rl.ok("push", "-q", *flags, "--digestfile", digest, "busybox", where)
    raw = subprocess.run(["skopeo", "inspect", "--raw", where], capture_output=True, timeout=30, check=True).stdout
    assert [layer["mediaType"] for layer in json.loads(raw)["layers"]] == [media_type]
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest.read_text()
    subprocess.run(["skopeo", "copy", "-q", where, f"oci:{rl.user.home}/formed-again"], timeout=30, check=True)


@pytest.mark.parametrize(("words", "code", "said"), [
    (["nothing-such"], 125, "image not known"),
    (["busybox", "localhost/x"], 125, "not of a registry"),
    (["busybox", "containers-storage:x"], 125, "podman load"),
    (["busybox", "docker-daemon:x:y"], 125, "docker load"),
    (["busybox", "dir:"], 125, "dir:PATH"),
    (["busybox", "127.0.0.1:1/x"], 125, "127.0.0.1:1"),
    (["busybox", "127.0.0.1:1/UPPER"], 125, "hint:"),
    (["--compression-level", "99", "busybox", "127.0.0.1:1/x"], 125, "gzip has 1 to 9"),
    (["--format", "v2s2", "--compression-format", "zstd", "busybox", "127.0.0.1:1/x"], 125, "no zstd layers"),
    (["--compress", "busybox", "127.0.0.1:1/x"], 125, "for dir:"),
    (["--compress", "busybox", "oci:/nowhere/x"], 125, "not for oci:"),
    (["--format", "v2s2", "busybox", "oci-archive:/nowhere/x"], 125, "OCI's format only"),
    (["--format", "v2s2", "--compression-format", "zstd", "busybox", "dir:/nowhere/x"], 125, "no zstd layers"),
    (["--compression-format", "zstd", "busybox", "docker-archive:/nowhere/x"], 125, "never compressed"),
    (["--compression-level", "3", "busybox", "dir:/nowhere/x"], 125, "add --compress"),
    (["--creds", "a:b", "busybox", "dir:/nowhere/x"], 125, "are for registries"),
    (["--digestfile", "/nowhere/d", "busybox", "docker-archive:/nowhere/x"], 125, "no digest"),
    (["--sign-by-sigstore-private-key", "key", "busybox", "127.0.0.1:1/x"], 125, "cosign sign"),
    (["--compression-format", "lzma", "busybox", "127.0.0.1:1/x"], 125, "zstd"),
])
def test_wrong_inputs(rl: Rl, words: list[str], code: int, said: str) -> None:
    done = rl("push", "--retry", "0", *words)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr
