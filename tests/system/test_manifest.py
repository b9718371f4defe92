"""`rl manifest`: lists are made, changed, pushed to a real registry, and read there by Skopeo and rl itself."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from support.registry import Registry
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-lists"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("lists")) as server:
        yield server


def _raw(place: str) -> dict[str, object]:
    done = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{place}"], capture_output=True, text=True, timeout=30, check=True)
    return dict(json.loads(done.stdout))


def _entries(rl: Rl, name: str) -> list[dict[str, object]]:
    return list(json.loads(rl.ok("manifest", "inspect", name))["manifests"])


def _for(rl: Rl, arch: str, text: str) -> str:
    return rl.ok("build", "-q", "--format", "docker", "--arch", arch, "-t", f"part:{arch}", "-", input=f"FROM scratch\nLABEL a={text}\nCOPY <<E /f\n{text}\nE\n")


def test_a_list_from_images_here_to_a_registry_and_back(rl: Rl, plain: Registry) -> None:
    ids = [_for(rl, arch, arch) for arch in ("amd64", "arm64")]
    list_id = rl.ok("manifest", "create", "multi", "part:amd64")
    assert len(list_id) == 64 and rl.ok("manifest", "add", "multi", "part:arm64") == list_id
    entries = _entries(rl, "multi")
    assert [entry["platform"] for entry in entries] == [{"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"}]
    digest = rl.user.home / "digest"
    done = rl("manifest", "push", "--digestfile", digest, "multi", f"docker://{plain.host}/multi:1")
    assert done.returncode == 0 and "Writing manifest list" in done.stderr, done.stderr
    pushed = _raw(f"{plain.host}/multi:1")
    assert pushed["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert json.loads(rl.ok("manifest", "inspect", f"docker://{plain.host}/multi:1")) == pushed
    assert rl.ok("pull", "-q", "--arch", "arm64", f"{plain.host}/multi:1") == ids[1]
    assert rl.ok("pull", "-q", f"{plain.host}/multi@{digest.read_text()}") == ids[0]
    again = rl("manifest", "push", "--all", "multi", f"{plain.host}/multi:1")
    assert again.returncode == 0 and "already exists" in again.stderr
    assert rl.ok("manifest", "push", "-q", "--format", "oci", "--compression-format", "zstd", "multi", f"{plain.host}/multi:oci") == ""
    oci = _raw(f"{plain.host}/multi:oci")
    assert oci["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert rl.ok("pull", "-q", "--arch", "arm64", f"{plain.host}/multi:oci") == ids[1]
    rl.ok("manifest", "rm", "multi")


def test_lists_are_among_the_images(rl: Rl) -> None:
    _for(rl, "amd64", "shown")
    list_id = rl.ok("manifest", "create", "shown", "part:amd64")
    assert rl.ok("images", "--noheading", "--format", "{{.Repository}} {{.Tag}} {{.ID}}", "shown") == f"localhost/shown latest {list_id[:12]}"
    (image,) = json.loads(rl.ok("images", "--format", "json", "--filter", "reference=shown"))
    assert image["Id"] == list_id and image["IsManifestList"] is True and image["RepoTags"] == ["localhost/shown:latest"]
    assert image["Size"] > 100 and image["Digest"].startswith("sha256:") and abs(image["Created"] - time.time()) < 100
    assert not [one for one in json.loads(rl.ok("images", "-a", "--format", "json")) if one["Id"] != list_id and "shown" in str(one["Names"])]
    rl.ok("image", "prune", "-f")
    assert rl.ok("rmi", "shown").splitlines() == ["Untagged: localhost/shown:latest", f"Deleted: {list_id}"]
    assert rl("rmi", "shown").returncode == 1 and rl.ok("images", "-q", "part:amd64") != ""
    second = rl.ok("manifest", "create", "shown", "part:amd64")
    assert rl.ok("rmi", second[:12]).endswith(f"Deleted: {second}") and rl.ok("images", "-q", "shown") == ""


def test_entries_are_described_and_taken_out(rl: Rl) -> None:
    _for(rl, "amd64", "one")
    rl.ok("manifest", "create", "--annotation", "who=me", "described")
    rl.ok("manifest", "add", "--variant", "v3", "--os-version", "1", "--annotation", "a=b", "described", "busybox")
    rl.ok("manifest", "add", "described", "part:amd64")
    first, second = _entries(rl, "described")
    assert first["platform"] == {"architecture": "amd64", "os": "linux", "variant": "v3", "os.version": "1"} and first["annotations"] == {"a": "b"}
    rl.ok("manifest", "annotate", "--arch", "riscv64", "--features", "x,y", "--os-features", "z", "--annotation", "c=d", "described", "part:amd64")
    changed = _entries(rl, "described")[1]
    assert changed["platform"] == {"architecture": "riscv64", "os": "linux", "features": ["x", "y"], "os.features": ["z"]} and changed["digest"] == second["digest"]
    rl.ok("manifest", "annotate", "--index", "--annotation", "more=1", "described")
    document = json.loads(rl.ok("manifest", "inspect", "described"))
    assert document["annotations"] == {"who": "me", "more": "1"} and document["mediaType"] == "application/vnd.oci.image.index.v1+json"
    rl.ok("manifest", "remove", "described", str(second["digest"]))
    assert len(_entries(rl, "described")) == 1
    rl.ok("manifest", "create", "--amend", "described", "part:amd64")
    assert len(_entries(rl, "described")) == 2
    rl.ok("manifest", "create", "--all", "copied", "described")
    assert _entries(rl, "copied") == _entries(rl, "described")
    assert rl.ok("manifest", "rm", "described", "copied").splitlines()[0] == "Untagged: localhost/described:latest"
    assert (rl("manifest", "exists", "described").returncode, rl("manifest", "rm", "--ignore", "described").returncode) == (1, 0)


def test_rarer_flags(rl: Rl, plain: Registry) -> None:
    for arch in ("amd64", "arm64"):
        _for(rl, arch, f"rare-{arch}")
    rl.ok("manifest", "create", "rare", "part:amd64", "part:arm64")
    place = f"{plain.host}/rare"
    rl.ok("manifest", "push", "-q", "--remove-signatures", "--force-compression", "--compression-level", "9", "rare", f"{place}:1")
    kinds = {item["mediaType"].rpartition(".")[2] for item in _raw(f"{place}@{_entries(rl, f'docker://{place}:1')[0]['digest']}")["layers"]}  # type: ignore[attr-defined]
    assert kinds == {"gzip"}
    rl.ok("manifest", "create", "all")
    rl.ok("manifest", "add", "all", f"docker://{place}:1")
    assert len(_entries(rl, "all")) == 1, "the one for this machine"
    rl.ok("manifest", "add", "--all", "all", f"docker://{place}:1")
    assert len(_entries(rl, "all")) == 2
    digest = rl.ok("manifest", "inspect", "all") and str(_entries(rl, "all")[0]["digest"])
    rl.ok("manifest", "annotate", "--os", "plan9", "--os-version", "4", "--variant", "v2", "all", digest)
    assert _entries(rl, "all")[0]["platform"] == {"architecture": "amd64", "os": "plan9", "os.version": "4", "variant": "v2"}
    rl.ok("manifest", "add", "--os", "haiku", "--features", "sse4", "all", "busybox")
    assert _entries(rl, "all")[2]["platform"] == {"architecture": "amd64", "os": "haiku", "features": ["sse4"]}
    assert rl("pull", "-q", "--os", "windows", f"{place}:1").returncode == 125
    found = rl.ok("pull", "-q", "--os", "linux", "--arch", "arm64", "--variant", "v8", f"{place}:1")
    assert rl.ok("image", "inspect", "--format", "{{.Architecture}}", found) == "arm64"
    rl.ok("manifest", "push", "-q", "rare", f"{place}:2")
    rl.ok("rmi", "-f", found)
    rl.ok("pull", "-q", "--all-tags", place)
    assert sorted(rl.ok("images", "--format", "{{.Tag}}", place).split()) == ["1", "2"]
    rl.ok("rmi", f"{place}:1", f"{place}:2", "rare", "all")


def test_what_is_elsewhere_is_copied_by_a_push(rl: Rl, plain: Registry) -> None:
    wanted = [_for(rl, arch, f"far-{arch}") for arch in ("amd64", "arm64")]
    rl.ok("manifest", "create", "far", "part:amd64", "part:arm64")
    rl.ok("manifest", "push", "-q", "far", f"{plain.host}/far:1")
    rl.ok("manifest", "rm", "far")
    rl.ok("rmi", "part:amd64", "part:arm64")
    rl.ok("manifest", "create", "--all", "near", f"docker://{plain.host}/far:1")
    rl.ok("manifest", "create", "alone")
    rl.ok("manifest", "add", "--arch", "arm64", "alone", f"docker://{plain.host}/far:1")
    assert [entry["platform"]["architecture"] for entry in _entries(rl, "alone")] == ["arm64"]  # type: ignore[index]
    rl.ok("manifest", "push", "-q", "--rm", "near", f"{plain.host}/elsewhere/near:2")
    assert rl.ok("pull", "-q", "--arch", "arm64", f"{plain.host}/elsewhere/near:2") == wanted[1]
    assert rl("manifest", "exists", "near").returncode == 1
    rl.ok("manifest", "push", "-q", "--all=false", "alone", f"{plain.host}/far:alone")
    assert len(_raw(f"{plain.host}/far:alone")["manifests"]) == 1  # type: ignore[arg-type]


def test_builds_for_lists_and_the_collector(rl: Rl, plain: Registry) -> None:
    for arch in ("amd64", "arm64"):
        rl.ok("build", "-q", "--arch", arch, "--manifest", "built", "-", input=f"FROM scratch\nCOPY <<E /f\nlist-{arch}\nE\n")
    assert len(_entries(rl, "built")) == 2
    rl.ok("image", "prune", "--force", "--all", "--build-cache")
    rl.ok("gc")
    rl.ok("manifest", "push", "-q", "built", f"{plain.host}/built")
    rl.ok("manifest", "rm", "built")


@pytest.mark.parametrize(("words", "said"), [
    (["create", "UPPER"], "hint:"),
    (["create", "x", "nosuch/image/here"], "hint:"),
    (["create", "x", "docker://127.0.0.1:1/x"], "127.0.0.1:1"),
    (["add", "nosuch", "busybox"], "no such manifest list"),
    (["inspect", "nosuch"], "neither a manifest list nor an image"),
    (["annotate", "listed"], "name an entry"),
    (["annotate", "listed", "sha256:00"], "nothing to change"),
    (["annotate", "--arch", "x", "listed", "sha256:00"], "is not in the manifest list"),
    (["annotate", "--annotation", "x", "listed", "sha256:00"], "--annotation"),
    (["remove", "listed", "sha256:00"], "is not in the manifest list"),
    (["push", "nosuch"], "no such manifest list"),
    (["push", "listed", "oci:/tmp/x"], "registries only"),
    (["push", "listed", "127.0.0.1:1/x"], "127.0.0.1:1"),
    (["push", "--sign-by", "me", "listed"], "rl image sign --all"),
    (["create", "listed"], "--amend"),
])
def test_wrong_inputs(rl: Rl, words: list[str], said: str) -> None:
    rl("manifest", "create", "listed")
    done = rl("manifest", *words)
    assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert rl("manifest", "rm", "nosuch").returncode == 1
