"""Pulls from a real registry: what arrives, under which name, and what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rl.engine.context import Engine
from rl.engine.pull import ensure_image, pull
from rl.errors import (
    AuthenticationError,
    NoSuchImageError,
    RegistryError,
    RlError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from rl.image import store
from rl.image.progress import Plain
from rl.storage import layers
from support.registry import OCI, Image, Registry, digest_of, layer, make_image

HELLO = layer({"hello": b"hello\n"})
MORE = layer({"more": b"m" * 100_000})


def tree(engine: Engine, diff_id: str) -> str:
    from rl.storage.driver import default_key

    return layers.layer_path(engine.paths, diff_id, default_key(engine.paths))


def nothing_recorded(engine: Engine) -> bool:
    return store.list_images(engine.paths) == ([], [])


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_tag(engine: Engine, plain: Registry, docker: bool, compress: bool) -> None:
    image = plain.push([HELLO, MORE], f"tag{docker}{compress}:1".lower(), docker=docker, compress=compress)
    name = f"{plain.host}/tag{docker}{compress}:1".lower()
    (record,) = pull(engine, name)
    assert record["name"] == name
    assert record["id"] == image.id
    assert record["manifest"] == image.digest
    assert record["layers"] == image.diff_ids
    assert record["digests"] == [f"{name[:-2]}@{image.digest}"]
    assert Path(tree(engine, image.diff_ids[0]), "hello").read_bytes() == b"hello\n"
    assert Path(tree(engine, image.diff_ids[1]), "more").stat().st_size == 100_000
    assert store.find(engine.paths, image.id[:12])["name"] == name
    assert not os.listdir(f"{engine.paths.content}/partial")


def test_digest(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "bydigest:1")
    (record,) = pull(engine, f"{plain.host}/bydigest@{image.digest}")
    assert record["name"] == f"{plain.host}/bydigest@{image.digest}"
    (record,) = pull(engine, f"docker://{plain.host}/bydigest:1@{image.digest}")
    assert record["id"] == image.id
    with pytest.raises(NoSuchImageError):
        pull(engine, f"{plain.host}/bydigest@sha256:{'0' * 64}")


def test_again_fetches_only_what_is_missing(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO, MORE], "again:1")
    name = f"{plain.host}/again:1"
    pull(engine, name)
    blob = f"{engine.paths.blobs}/{digest_of(image.blobs[1])[7:]}"
    os.unlink(blob)
    pull(engine, name)
    assert Path(blob).read_bytes() == image.blobs[1]


def test_damaged_blob_is_fetched_again(engine: Engine, plain: Registry) -> None:
    data = layer({"random": random.Random(1).randbytes(50_000)})
    image = plain.push([data], "damaged:1")
    name = f"{plain.host}/damaged:1"
    blob = Path(f"{engine.paths.blobs}/{digest_of(image.blobs[0])[7:]}")
    content = bytearray(image.blobs[0])
    content[20_000] ^= 0xFF
    blob.write_bytes(content)
    pull(engine, name)
    assert blob.read_bytes() == image.blobs[0]
    assert Path(tree(engine, image.diff_ids[0]), "random").stat().st_size == 50_000


def test_one_layer_twice(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO, MORE, HELLO], "twice:1")
    (record,) = pull(engine, f"{plain.host}/twice:1")
    assert record["layers"] == image.diff_ids
    assert record["layers"][0] == record["layers"][2]


def platforms(registry: Registry, name: str, docker: bool = False) -> dict[str, Image]:
    images = {
        platform: make_image([layer({"arch": platform.encode()})], platform=platform, docker=docker)
        for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7")
    }
    registry.push_index(list(images.values()), name, docker)
    return images


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("linux/amd64", "linux/amd64"), ("linux/arm64", "linux/arm64/v8"), ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"), ("linux/arm/v7", "linux/arm/v7"), ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"), ("LINUX/x86_64", "linux/amd64"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("docker", [False, True])
def test_platform(engine: Engine, plain: Registry, asked: str, wanted: str, docker: bool) -> None:
    images = platforms(plain, "platforms:1", docker)
    (record,) = pull(engine, f"{plain.host}/platforms:1", platform=asked)
    assert record["id"] == images[wanted].id
    assert record["index"]
    assert len(record["digests"]) == 2


def test_platform_missing(engine: Engine, plain: Registry) -> None:
    platforms(plain, "platforms:2")
    with pytest.raises(NoSuchImageError, match="no image for linux/s390x") as caught:
        pull(engine, f"{plain.host}/platforms:2", arch="s390x")
    assert "linux/amd64, linux/arm64/v8, linux/arm/v6, linux/arm/v7" in caught.value.hint
    plain.push([HELLO], "single:arm", platform="linux/arm64")
    with pytest.raises(NoSuchImageError, match="no image for linux/s390x"):
        pull(engine, f"{plain.host}/single:arm", platform="linux/s390x")
    assert nothing_recorded(engine)


def test_image_of_another_machine_is_pulled_with_a_warning(engine: Engine, plain: Registry) -> None:
    plain.push([HELLO], "single:s390x", platform="linux/s390x")
    said: list[str] = []
    engine.warn = said.append
    pull(engine, f"{plain.host}/single:s390x")
    assert len(said) == 1
    assert "is for linux/s390x" in said[0]


@pytest.mark.parametrize(
    "flags", [{"platform": "linux"}, {"platform": "a/b/c/d"}, {"platform": "linux/arm", "arch": "arm"}]
)
def test_bad_platform(engine: Engine, flags: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        pull(engine, "127.0.0.1:1/x", **flags)


def test_not_there(engine: Engine, plain: Registry) -> None:
    plain.push([HELLO], "there:1")
    for name in ("there:2", "nowhere:1"):
        with pytest.raises(NoSuchImageError, match=rf"{name}: .* has no such image"):
            pull(engine, f"{plain.host}/{name}")
    with pytest.raises(NoSuchImageError):
        pull(engine, f"{plain.host}/nowhere", all_tags=True)


def test_registry_down(engine: Engine) -> None:
    with pytest.raises(RegistryError, match="connection refused"):
        pull(engine, "127.0.0.1:1/x")
    with pytest.raises(RegistryError, match=r"there is no such host|no name server"):
        pull(engine, "registry.invalid/x")


def test_mistyped_local_name(engine: Engine) -> None:
    import socket

    with socket.socket() as probe:
        if 0 in (probe.connect_ex(("127.0.0.1", 443)), probe.connect_ex(("127.0.0.1", 80))):
            pytest.skip("a web server listens on this machine")
    with pytest.raises(NoSuchImageError, match="image not known"):
        pull(engine, "localhost/mistyped")


def test_artifact(engine: Engine, plain: Registry) -> None:
    image = make_image([HELLO])
    image.manifest = image.manifest.replace(f"{OCI}.config.v1".encode(), b"application/vnd.cncf.helm.config.v1")
    plain.put(image, "chart:1")
    with pytest.raises(UnsupportedError, match="not a container image but application/vnd"):
        pull(engine, f"{plain.host}/chart:1")


def test_wrong_diff_id(engine: Engine, plain: Registry) -> None:
    image = make_image([HELLO])
    lie = image.config.replace(image.diff_ids[0].encode(), digest_of(MORE).encode())
    image.manifest = image.manifest.replace(digest_of(image.config).encode(), digest_of(lie).encode())
    image.config = lie
    plain.put(image, "liar:1")
    with pytest.raises(VerificationError):
        pull(engine, f"{plain.host}/liar:1")
    assert nothing_recorded(engine)
    assert layers.all_layers(engine.paths) == []


def test_all_tags(engine: Engine, plain: Registry) -> None:
    for tag in ("a", "b", "c"):
        plain.push([layer({"tag": tag.encode()})], f"tags:{tag}")
    records = pull(engine, f"{plain.host}/tags", all_tags=True)
    assert sorted(record["name"].rpartition(":")[2] for record in records) == ["a", "b", "c"]
    with pytest.raises(UsageError):
        pull(engine, f"{plain.host}/tags:a", all_tags=True)


def test_policies(engine: Engine, plain: Registry) -> None:
    name = f"{plain.host}/policies:1"
    first = plain.push([HELLO], "policies:1")
    with pytest.raises(NoSuchImageError):
        ensure_image(engine, name, policy="never")
    assert ensure_image(engine, name, quiet=True)["id"] == first.id
    second = plain.push([MORE], "policies:1")
    assert ensure_image(engine, name, policy="missing")["id"] == first.id
    assert ensure_image(engine, name, policy="never")["id"] == first.id
    assert ensure_image(engine, name, policy="newer", quiet=True)["id"] == second.id
    before = ensure_image(engine, name)["pulled"]
    assert ensure_image(engine, name, policy="newer", quiet=True)["pulled"] == before
    third = plain.push([HELLO, MORE], "policies:1")
    assert ensure_image(engine, name, policy="always", quiet=True)["id"] == third.id
    with pytest.raises(UsageError):
        ensure_image(engine, name, policy="sometimes")


def test_newer_does_not_need_the_registry(engine: Engine, tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        image = registry.push([HELLO], "away:1")
        name = f"{registry.host}/away:1"
        pull(engine, name)
    said: list[str] = []
    engine.warn = said.append
    assert pull(engine, name, policy="newer")[0]["id"] == image.id
    assert "connection refused" in said[0]
    with pytest.raises(RegistryError):
        pull(engine, name)


def test_missing_pulls_another_platform_when_asked(engine: Engine, plain: Registry) -> None:
    images = platforms(plain, "platforms:3")
    name = f"{plain.host}/platforms:3"
    assert ensure_image(engine, name, platform="linux/amd64", quiet=True)["id"] == images["linux/amd64"].id
    assert ensure_image(engine, name, arch="arm64", quiet=True)["id"] == images["linux/arm64/v8"].id


def test_image_that_is_here_imports_no_network(engine: Engine, plain: Registry) -> None:
    plain.push([HELLO], "cheap:1")
    name = f"{plain.host}/cheap:1"
    pull(engine, name)
    code = (
        "import sys\nfrom rl.engine.context import Engine\nfrom rl.config.paths import Paths\n"
        f"from rl.engine.pull import ensure_image\np = Paths({engine.paths.data!r}, {engine.paths.run!r}, 'c', 'd')\n"
        f"ensure_image(Engine(p), {name!r})\n"
        "heavy = {'ssl', 'socket', 'http', 'urllib', 'typing', 're', 'threading', 'json', 'rl.image.pull'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.environ["PATH"]},
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_lines(engine: Engine, plain: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    image = plain.push([HELLO, MORE], "lines:1")
    pull(engine, f"{plain.host}/lines:1", progress=Plain())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == f"Trying to pull {plain.host}/lines:1..."
    assert lines[1] == "Getting image source signatures"
    assert f"Copying blob {digest_of(image.blobs[0])}" in lines
    assert f"Copying config sha256:{image.id}" in lines
    assert lines[-1] == "Writing manifest to image destination"
    pull(engine, f"{plain.host}/lines:1", progress=Plain())
    assert f"Copying blob {digest_of(image.blobs[0])} skipped: already exists" in capsys.readouterr().err
    pull(engine, f"{plain.host}/lines:1", progress=Plain(), quiet=True)
    assert capsys.readouterr().err == ""


def write_conf(engine: Engine, text: str) -> None:
    Path(engine.paths.config, "registries.conf").write_text(text)


def test_short_name(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "library-less:1")
    with pytest.raises(RlError):
        pull(engine, "library-less:1")
    write_conf(engine, f'unqualified-search-registries = ["127.0.0.1:1", "{plain.host}"]')
    (record,) = pull(engine, "library-less:1")
    assert (record["name"], record["id"]) == (f"{plain.host}/library-less:1", image.id)
    with pytest.raises(RlError, match="none of 2 registries has it") as caught:
        pull(engine, "nowhere-at-all")
    assert "connection refused" in caught.value.message
    write_conf(engine, f'[aliases]\n"friend" = "{plain.host}/library-less"')
    assert pull(engine, "friend:1")[0]["id"] == image.id


def test_short_name_choice_is_remembered(engine: Engine, plain: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.image import registries_conf

    monkeypatch.setattr(registries_conf, "aliases_file", lambda paths: f"{paths.cache}/aliases.conf")
    plain.push([HELLO], "chosen:1")
    search = f'unqualified-search-registries = ["127.0.0.1:1", "{plain.host}"]'
    write_conf(engine, f'short-name-mode = "enforcing"\n{search}')
    with pytest.raises(UsageError, match="may mean"):
        pull(engine, "chosen:1")
    offered: list[list[str]] = []
    pull(engine, "chosen:1", choose=lambda names: offered.append(names) or 1)  # type: ignore[func-returns-value]
    assert offered == [["127.0.0.1:1/chosen:1", f"{plain.host}/chosen:1"]]
    assert pull(engine, "chosen:1")[0]["name"] == f"{plain.host}/chosen:1"


def test_mirror_and_location(engine: Engine, plain: Registry) -> None:
    image = plain.push([HELLO], "proxied/app:1")
    write_conf(
        engine,
        f'''
[[registry]]
prefix = "example.invalid/team"
location = "{plain.host}/proxied"
[[registry]]
location = "mirrored.invalid"
[[registry.mirror]]
location = "127.0.0.1:1/dead"
[[registry.mirror]]
location = "{plain.host}/proxied"
[[registry]]
location = "blocked.invalid"
blocked = true
''',
    )
    said: list[str] = []
    engine.warn = said.append
    (record,) = pull(engine, "example.invalid/team/app:1")
    assert (record["name"], record["id"]) == ("example.invalid/team/app:1", image.id)
    (record,) = pull(engine, "mirrored.invalid/app:1")
    assert (record["name"], record["id"]) == ("mirrored.invalid/app:1", image.id)
    assert len(said) == 1
    assert "127.0.0.1:1 is passed over" in said[0]
    with pytest.raises(AuthenticationError, match=r"is blocked in .*registries\.conf"):
        pull(engine, "blocked.invalid/app:1")


def test_policy(engine: Engine, plain: Registry) -> None:
    plain.push([HELLO], "policy:1")
    path = Path(engine.paths.config, "policy.json")
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    path.write_text(json.dumps({"default": accept, "transports": {"docker": {f"{plain.host}/policy": reject}}}))
    with pytest.raises(VerificationError, match="rejected by policy"):
        pull(engine, f"{plain.host}/policy:1")
    path.write_text(json.dumps({"default": reject, "transports": {"docker": {f"{plain.host}/policy:1": accept}}}))
    pull(engine, f"{plain.host}/policy:1")
    with pytest.raises(VerificationError):
        pull(engine, f"{plain.host}/policy:2")


def test_two_at_once(engine: Engine, plain: Registry) -> None:
    data = [layer({f"f{number}": random.Random(number).randbytes(2 << 20)}) for number in range(4)]
    image = plain.push(data, "both:1")
    code = (
        "import sys\nfrom rl.engine.context import Engine\nfrom rl.config.paths import Paths\n"
        f"from rl.engine.pull import pull\np = Paths({engine.paths.data!r}, {engine.paths.run!r},"
        f" {engine.paths.config!r}, {engine.paths.cache!r})\n"
        f"print(pull(Engine(p), '{plain.host}/both:1')[0]['id'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert [out.decode().strip() for out, _ in answers] == [image.id] * 3, answers
    assert len(os.listdir(engine.paths.layers)) == 4
    assert threading.active_count() < 20


@pytest.mark.parametrize("transport", ["oci", "dir", "docker-archive", "oci-archive"])
def test_local_transports(engine: Engine, plain: Registry, tmp_path: Path, transport: str) -> None:
    import shutil

    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    image = plain.push([HELLO], "local:1", docker=transport == "docker-archive")
    target = f"{transport}:{tmp_path}/saved" + {"dir": "", "docker-archive": ":name:1"}.get(transport, ":1")
    command = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false"]
    subprocess.run([*command, f"docker://{plain.host}/local:1", target], check=True, capture_output=True)
    (record,) = pull(engine, target)
    assert record["layers"] == image.diff_ids
    assert ensure_image(engine, target)["id"] == record["id"]
    with pytest.raises(NoSuchImageError if transport != "dir" else RlError):
        pull(engine, target + "x")
