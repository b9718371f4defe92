"""Images as a store: rl gc, rl image tree, and images that are taken over from Podman's store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-store"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)


def _build(rl: Rl, text: str, *words: str) -> str:
    return rl.ok("build", "-q", *words, "-", input=text)


def test_tree(rl: Rl) -> None:
    _build(rl, "FROM busybox\nRUN echo 1 > /1\n", "-t", "child:1")
    _build(rl, "FROM child:1\nRUN echo 2 > /2\n", "-t", "grandchild")
    lines = rl.ok("image", "tree", "grandchild").splitlines()
    assert lines[0].startswith("Image ID: ") and lines[1] == "Tags:     [localhost/grandchild:latest]" and lines[3] == "Image Layers"
    assert [line[:3] for line in lines[4:]] == ["├──", "├──", "└──"] and "busybox:latest" in lines[4] and "child:1" in lines[5]
    grown = rl.ok("image", "tree", "--whatrequires", "busybox").splitlines()[4:]
    assert [line.partition("ID")[0] for line in grown] == ["└── ", "    └── ", "        └── "] and "grandchild" in grown[2]
    done = rl("image", "tree", "nosuch")
    assert done.returncode == 125 and "image not known" in done.stderr


def test_gc_frees_in_its_order(rl: Rl) -> None:
    _build(rl, "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/x; echo gc > /gc\n", "-t", "kept")
    (rl.data / "content/partial").mkdir(exist_ok=True)
    (rl.data / "content/partial" / ("a" * 64)).write_bytes(b"x" * 5000)
    subprocess.run(["chown", "-R", f"{rl.user.uid}:{rl.user.gid}", rl.data / "content/partial"], check=True)
    enough = rl.ok("gc", "--keep-free", "1k")
    assert enough.endswith("are free") and (rl.data / "content/partial" / ("a" * 64)).exists() and os.listdir(rl.data / "build/cache")
    told = rl("gc", "--dry-run", "--keep-free", "1000T")
    assert told.returncode == 125 and "--all" in told.stderr and (rl.data / "content/partial" / ("a" * 64)).exists()
    done = rl("gc", "--keep-free", "1000T")
    assert done.returncode == 125 and "wished for" in done.stderr
    assert not (rl.data / "content/partial" / ("a" * 64)).exists()
    assert os.listdir(rl.data / "build/cache") == os.listdir(rl.data / "build/snapshots") == os.listdir(rl.data / "build/caches") == []
    assert rl.ok("run", "--rm", "kept", "cat", "/gc") == "gc"
    rl.ok("create", "--name", "user", "kept")
    rl("gc", "--all", "--keep-free", "1000T")
    assert sorted(rl.ok("images", "--noheading", "--format", "{{.Repository}}").split()) == ["docker.io/library/busybox", "localhost/kept"]
    rl.clean()
    for words, said in ((["--keep-free", "x"], "--keep-free"), (["now"], "takes no arguments")):
        wrong = rl("gc", *words)
        assert wrong.returncode == 125 and said in wrong.stderr


@pytest.mark.parametrize("kind", ["docker-archive", "oci"])
def test_one_image_of_several(rl: Rl, kind: str) -> None:
    """docker-archive:PATH:NAME, :@N; oci: the same: nothing of the others stays."""
    place = rl.user.home / f"several-{kind}"
    shutil.rmtree(place, ignore_errors=True)
    ids = [_build(rl, f"FROM scratch\nCOPY <<E /f\n{number} {kind}\nE\n", "-t", f"several:{number}") for number in (0, 1)]
    names = ["localhost/several:0", "localhost/several:1"]
    if kind == "oci":
        for name in names:
            subprocess.run(["rm", "-f", place.with_suffix(".tar")], check=True)
            rl.ok("save", "-q", "-o", place.with_suffix(".tar"), name)
            subprocess.run(["skopeo", "copy", "-q", f"docker-archive:{place}.tar", f"oci:{place}:{name.rpartition(':')[2]}"], timeout=60, check=True)
    else:
        rl.ok("save", "-q", "-m", "-o", place, *names)
    rl.ok("rmi", *names)
    rl.ok("gc")
    blobs = rl.data / "content/blobs/sha256"
    before = sorted(os.listdir(blobs))
    for which, number in (("1", 1), ("@0", 0)):
        found = rl.ok("pull", "-q", f"{kind}:{place}:{which}")
        assert rl.ok("image", "inspect", "--format", "{{len .RootFS.Layers}}", found) == "1"
        if kind == "docker-archive":
            assert found == ids[number] and rl.ok("images", "--noheading", "--format", "{{.Tag}}", "several") == str(number)
        rl.ok("rmi", "-f", found)
    assert sorted(os.listdir(blobs)) == before
    for which, said in (("nosuch", "that is called nosuch"), ("@7", "no image number 7"), ("@x", "no number of an image")):
        done = rl("pull", "-q", f"{kind}:{place}:{which}")
        assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(os.listdir(blobs)) == before


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed: ./contrib/host-setup test")
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_images_of_podman(rl: Rl, busybox_archive: Path, driver: str) -> None:
    """The same id, the same files, owners of subordinate ids, names; nothing in Podman's store is changed."""
    store = rl.user.home / f"podman-{driver}"
    context = rl.user.home / "podman-context"
    context.mkdir(exist_ok=True)
    os.chown(context, rl.user.uid, rl.user.gid)
    podman = ["podman", "--cgroup-manager", "cgroupfs", "--root", store, "--runroot", rl.user.runtime_dir / f"podman-{driver}", "--storage-driver", driver]
    assert rl.user.run(*podman, "load", "-q", "-i", busybox_archive).returncode == 0
    container = rl.user.run("buildah", *podman[3:], "from", "busybox", check=True).stdout.strip()
    root = "mkdir /d && echo long > \"/d/$(head -c 120 /dev/zero | tr '\\0' n)\" && chown 1000:1000 /d && ln -s d /l && ln /d/n* /hard && rm /etc/group && mkfifo /fifo"
    assert rl.user.run("buildah", *podman[3:], "run", "--isolation", "chroot", container, "sh", "-c", root).returncode == 0
    image = rl.user.run("buildah", *podman[3:], "commit", "-q", container, "localhost/moved:1", check=True).stdout.strip()
    before = rl.user.run("find", store, "-newer", busybox_archive, "-printf", "%p %T@ %s\n").stdout
    where = f"containers-storage:[{driver}@{store}]"
    assert rl.ok("pull", "-q", f"{where}moved:1") == image
    assert rl.user.run("find", store, "-newer", busybox_archive, "-printf", "%p %T@ %s\n").stdout == before
    text = rl.ok("run", "--rm", "moved:1", "sh", "-c", "cat /l/n*; stat -c '%u %g' /d; stat -c %h /hard; ls /etc/group 2>&1 | tail -c 26; test -p /fifo")
    assert text == "long\n1000 1000\n2\nNo such file or directory"
    assert rl.ok("pull", "-q", f"{where}@{image[:12]}") == image
    rl.ok("rmi", "moved:1")
    for name, said in ((f"{where}nosuch", "moved:1"), (f"{where}@ffff0000", "no image"), (where, "no image"), ("containers-storage:[btrfs@/]x", "not read"),
                       ("containers-storage:[overlay@/nosuch]x", "no store"), ("containers-storage:[x", "not closed")):
        done = rl("pull", "-q", name)
        assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    layers = json.loads((store / f"{driver}-layers/layers.json").read_text())
    split = store / f"{driver}-layers" / f"{layers[-1]['id']}.tar-split.gz"
    split.write_bytes(split.read_bytes()[:-9])
    broken = rl("pull", "-q", f"{where}moved:1")
    assert broken.returncode == 125 and rl("image", "exists", "moved:1").returncode == 1, broken.stderr
    rl.user.run("podman", "unshare", "rm", "-rf", store)
