"""rl system df, prune, check, reset, migrate, renumber; rl image prune: what they print, remove, find and repair."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry
from system.conftest import Rl, disk_usage, unique_user


@pytest.fixture(scope="module")
def rl() -> Iterator[Rl]:
    one = Rl(unique_user("rltest-sys"))
    yield one
    one.clean()
    users.wipe(one.user)


@pytest.fixture
def loaded(rl: Rl, busybox_archive: Path) -> Iterator[Rl]:
    """With busybox, and nothing else before and after."""
    rl.ok("load", "-q", "-i", busybox_archive)
    yield rl
    rl.ok("system", "reset", "--force")


def test_reset(rl: Rl, busybox_archive: Path) -> None:
    """Nothing is left: no process, no mount, no directory; what is not rl's stays."""
    rl.ok("load", "-q", "-i", busybox_archive)
    rl.ok("run", "-d", "--network=none", "--stop-timeout", "0", "-v", "named:/v", "-v", "/anon", "busybox", "sleep", "99")
    rl.ok("create", "--network=none", "busybox", "true")
    rl.ok("secret", "create", "key", "-", input="secret")
    question = rl("system", "reset", input="")
    assert question.returncode == 1 and "- all volumes\n" in question.stdout and str(rl.data) in question.stdout
    assert rl.ok("system", "reset", input="n\n") and len(rl.containers()) == 2
    (rl.data / "mine").write_text("x")
    os.chown(rl.data / "mine", rl.user.uid, rl.user.gid)
    done = rl("system", "reset", "--force")
    assert done.returncode == 0 and "mine is not rl's and stays" in done.stderr
    assert [path.name for path in rl.data.iterdir()] == ["mine"]
    (rl.data / "mine").unlink()
    rl.ok("system", "reset", "--force")
    assert not rl.data.exists() and not rl.run_dir.exists() and not (rl.user.home / ".cache/rl").exists()
    assert [line for line in rl.user.processes() if "rl-monitor" in line or "sleep" in line] == []
    assert str(rl.data) not in Path("/proc/self/mountinfo").read_text()


def test_df(loaded: Rl) -> None:
    rl = loaded
    empty = json.loads(rl.ok("system", "df", "--format", "json"))
    assert [(row["Type"], row["Total"], row["Active"]) for row in empty] == [
        ("Images", 1, 0), ("Containers", 0, 0), ("Local Volumes", 0, 0)]
    assert empty[0]["RawSize"] == empty[0]["RawReclaimable"] > 4_000_000  # the layer and its blob
    rl.ok("run", "--network=none", "--name", "c", "-v", "v:/v", "-v", "/a", "busybox", "sh", "-c",
          "dd if=/dev/zero of=/v/x bs=1k count=100 2>/dev/null; echo abc >/f")
    rl.ok("volume", "create", "free")
    rl.ok("tag", "busybox", "other:1")
    rows = json.loads(rl.ok("system", "df", "--format", "json"))
    assert [(row["Total"], row["Active"], row["RawReclaimable"]) for row in rows] == [(1, 1, 0), (1, 0, 4), (3, 2, 0)]
    assert rows[2]["Size"] == "102.4kB" and rows[0]["TotalCount"] == 1
    lines = rl.ok("system", "df").splitlines()
    assert re.split(" {2,}", lines[0]) == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert lines[2].split() == ["Containers", "1", "0", "4B", "4B", "(100%)"]
    text = rl.ok("system", "df", "-v")
    assert re.search(r"busybox +latest .* 4\.11\dMB +0B +4\.11\dMB +1\n", text) and "other" in text
    assert re.search(r"\nv +1 +102\.4kB\n?", text) and re.search(r"\nfree +0 +0B", text)
    assert rl.ok("system", "df", "--format", "{{.Type}}:{{.Total}}").splitlines()[1] == "Containers:1"
    for words, part in (("-v --format json", "cannot combine"), ("--format {{.No}}", "can't evaluate field No")):
        done = rl("system", "df", *words.split())
        assert (done.returncode, part in done.stderr) == (125, True)


def test_df_tells_shared_from_unique(rl: Rl, tmp_path: Path) -> None:
    """Two images with one layer in common: its bytes count once."""
    base = images.busybox_layer(tmp_path / "base.tar")
    for name in ("a", "b"):
        extra = tmp_path / f"{name}.layer"
        import tarfile

        with tarfile.open(extra, "w") as tar:
            images.add(tar, name, name.encode() * 50_000)
        archive = images.archive_of(rl.user.home / f"{name}.tar", [base, extra], {"Cmd": ["sh"]}, f"{name}:1")
        archive.chmod(0o644)
        rl.ok("load", "-q", "-i", archive)
        archive.unlink()
    text = rl.ok("system", "df", "-v")
    shared = re.findall(r":?[ab] +1 .*? (\S+MB) +(\S+MB) +(\S+kB) +0", text.replace("docker.io/library/", ""))
    assert len(shared) == 2 and shared[0] == shared[1], text
    total = json.loads(rl.ok("system", "df", "--format", "json"))[0]["RawSize"]
    kept = disk_usage(rl.data / "layers") + disk_usage(rl.data / "content")
    assert abs(total - kept) < 300_000, "as du says"
    rl.ok("system", "reset", "--force")


def test_image_prune(loaded: Rl) -> None:
    rl = loaded
    ids = {}
    for name in ("named", "nameless", "old"):
        change = [f"--change=LABEL kind={name}"]
        rl.user.run("sh", "-c", f"printf '' > {name}.tar; tar -cf {name}.tar {name}.tar", check=True)
        ids[name] = rl.ok("import", "-q", *change, f"{name}.tar", "image:1").removeprefix("sha256:")
    nothing = rl("image", "prune", input="")
    assert (nothing.returncode, nothing.stdout) == (
        125, "WARNING! This command removes all dangling images.\nAre you sure you want to continue? [y/N] ")
    assert rl.ok("image", "prune", "-f", "--filter", "label=kind=named") == ids["named"]
    assert rl.ok("image", "prune", "-f", "--filter", "until=24h") == ""
    assert rl.ok("image", "prune", "--external", "--build-cache", input="y\n").endswith(f"[y/N] {ids['nameless']}")
    rl.ok("create", "--network=none", "busybox", "true")
    assert rl.ok("image", "prune", "--all", "--force") == ids["old"]
    assert rl.ok("images", "-q") != ""
    assert 'unsupported image filter "reference"' in rl("image", "prune", "-f", "--filter", "reference=x").stderr


def test_system_prune(loaded: Rl) -> None:
    rl = loaded
    running = rl.ok("run", "-d", "--network=none", "-v", "kept:/v", "busybox", "sleep", "99")
    gone = rl.ok("create", "--network=none", "--label", "a=b", "-v", "gone:/v", "busybox", "true")
    warning = rl("system", "prune", "--all", "--volumes", "--build", input="")
    assert (warning.returncode, warning.stdout.splitlines()) == (125, [
        "WARNING! This command removes:", "\t- all stopped containers", "\t- all networks not used by at least one container",
        "\t- all volumes not used by at least one container", "\t- all build containers",
        "\t- all images without at least one container associated with them", "\t- all build cache", "",
        "Are you sure you want to continue? [y/N] "])
    assert rl.ok("system", "prune", input="no\n").count("dangling") == 2
    assert rl.ok("system", "prune", "-f", "--filter", "label=other") == "Total reclaimed space: 0B"
    assert rl.ok("system", "prune", "-f", "--filter", "label=a=b") == f"Deleted Containers\n{gone}\nTotal reclaimed space: 0B"
    assert rl.ok("system", "prune", "-f", "--volumes") == "Deleted Volumes\ngone\nTotal reclaimed space: 0B"
    assert rl.ok("system", "prune", "-af", "--volumes") == "Total reclaimed space: 0B"
    assert rl.containers() == [running] and rl.ok("volume", "ls", "-q") == "kept"
    rl.ok("rm", "-f", "-t", "0", running)
    text = rl.ok("system", "prune", "--all", "--force", "--volumes")
    assert re.fullmatch(r"Deleted Volumes\nkept\nDeleted Images\n[0-9a-f]{64}\nTotal reclaimed space: 4\.11\dMB", text)
    assert disk_usage(rl.data / "layers") == disk_usage(rl.data / "content/blobs") == 0
    (rl.data / "trash/left").mkdir()
    (rl.data / "volumes/.1-2.new").mkdir()
    for path in ("trash/left", "volumes/.1-2.new"):
        os.chown(rl.data / path, rl.user.uid, rl.user.gid)
    assert rl.ok("system", "prune", "--external") == ""
    assert os.listdir(rl.data / "trash") == os.listdir(rl.data / "volumes") == []
    for words, part in (("--external --all", "--all"), ("--external --volumes", "--volumes"), ("-f --filter x", "invalid filter"),
                        ("-f --filter name=x", "name is an invalid filter")):
        done = rl("system", "prune", *words.split())
        assert (done.returncode, part in done.stderr) == (125, True), done


def test_migrate_and_refusals(loaded: Rl) -> None:
    rl = loaded
    assert rl.ok("system", "migrate").startswith("Nothing to migrate")
    assert rl.ok("system", "renumber").startswith("Nothing to renumber")
    rl.ok("run", "-d", "--network=none", "--name", "c", "busybox", "sleep", "99")
    for words, part in (("migrate --new-runtime /bin/true", "is running"), ("migrate --new-runtime nosuch", "not found"),
                        ("service", "REST API is not built"), ("service --time 0 unix:///tmp/x", "REST API"),
                        ("connection list", "no remote client"), ("connection add a ssh://b", "no remote client"),
                        ("check x", "takes no arguments"), ("df x", "takes no arguments")):
        done = rl("system", *words.split())
        assert (done.returncode, part in done.stderr, "hint:" in done.stderr) == (125, True, True), done
    rl.ok("stop", "-t", "0", "c")
    rl.ok("system", "migrate", "--new-runtime", "/usr/bin/crun")
    assert rl.ok("inspect", "-f", "{{.OCIRuntime}}", "c") == "/usr/bin/crun"


def unshared(rl: Rl, script: str) -> None:
    rl.ok("unshare", "sh", "-c", f"cd {shlex.quote(str(rl.data))} && {script}")


def test_check_repairs_what_it_can(loaded: Rl) -> None:
    rl = loaded
    rl.ok("create", "--network=none", "--name", "c", "-v", "v:/v", "busybox", "true")
    assert rl.ok("system", "check") == rl.ok("system", "check", "--quick", "--max", "0s") == ""
    unshared(rl, "cd layers/*/fs; echo x >> etc/passwd; rm bin/ls; touch extra; chmod 700 home")
    assert rl.ok("system", "check", "-q") == "", "contents are not read"
    found = rl("system", "check")
    assert found.returncode == 125 and "damage detected in local storage" in found.stderr
    for part in ("/etc/passwd: it has", "/bin/ls: it is missing", "/extra: it is not in", "/home: its mode is 0700"):
        assert part in found.stdout
    script = ("rm volumes/v/volume.json; rm names/c; ln -s ../containers/x names/ghost; for d in containers/*; do echo { > $d/state.json; done; "
              "mkdir trash/x volumes/.1-2.new containers/.abc.new")
    unshared(rl, script)
    text = rl.ok("system", "check", "--repair")
    for kind in ("layer", "container", "name c: given back", "name ghost: removed", "volume v: a new record", "leftover"):
        assert f"Repaired {kind}" in text
    assert rl.ok("system", "check") == ""
    assert rl.ok("run", "--rm", "--network=none", "busybox", "ls", "/bin/ls") == "/bin/ls"
    assert "255" in rl.ok("ps", "-a", "--filter", "name=c", "--format", "{{.Status}}")
    unshared(rl, "for d in containers/*; do echo { > $d/config.json; done")
    stays = rl("system", "check", "--repair")
    assert stays.returncode == 125 and "still present after repair attempt" in stays.stderr and "--force" in stays.stderr
    assert "removed" in rl.ok("system", "check", "--force")
    assert rl.containers() == []
    assert "not a duration" in rl("system", "check", "--max", "soon").stderr


def test_check_removes_what_nobody_has(rl: Rl) -> None:
    archive = images.busybox(rl.user.home, tag="localhost/mine:1")
    archive.chmod(0o644)
    rl.ok("load", "-q", "-i", archive)
    archive.unlink()
    rl.ok("create", "--network=none", "--name", "c", "localhost/mine:1", "true")
    unshared(rl, "printf x | dd of=$(ls -S content/blobs/sha256/* | head -1) bs=1 seek=999 conv=notrunc 2>/dev/null")
    found = rl("system", "check", "--repair")
    assert found.returncode == 125 and "image is in use by a container" in found.stderr, found
    assert "removed, with image localhost/mine:1" in rl.ok("system", "check", "--force")
    assert (rl.containers(), rl.ok("images", "-q")) == ([], "")
    assert rl.ok("system", "check", "--max", "0s") == ""


def test_check_fetches_again(rl: Rl, tmp_path: Path, busybox_archive: Path) -> None:
    """Just the blob that is broken, from the registry the image came from; one that does not answer is told."""
    with Registry(tmp_path) as server:
        server.push_archive(busybox_archive, "busybox:latest")
        name = f"{server.host}/busybox:latest"
        rl.ok("pull", "-q", name)
        blobs = {path.name: path.stat().st_ctime_ns for path in (rl.data / "content/blobs/sha256").iterdir()}
        largest = max((rl.data / "content/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).name
        unshared(rl, f"printf x | dd of=content/blobs/sha256/{largest} bs=1 seek=999 conv=notrunc 2>/dev/null; rm -r layers/*/fs")
        assert f"Repaired blob sha256:{largest}: fetched again from {server.host}" in rl.ok("system", "check", "--repair")
        again = {path.name: path.stat().st_ctime_ns for path in (rl.data / "content/blobs/sha256").iterdir()}
        assert blobs.keys() == again.keys()
        assert [digest for digest in blobs if blobs[digest] != again[digest]] == [largest]
        unshared(rl, "for f in content/blobs/sha256/*; do test $(stat -c %s $f) -gt 5000 || rm $f; done; for f in images/*; do echo { > $f; done")
        text = rl.ok("system", "check", "--repair")
        assert "pulled again" in text
        assert rl.ok("run", "--rm", "--network=none", name, "echo", "ok") == "ok"
    unshared(rl, f"rm content/blobs/sha256/{largest}")
    done = rl("system", "check", "--repair")
    assert done.returncode == 125 and "fetch it again" in done.stderr and "--force" in done.stderr
    assert rl.ok("images", "-q") != ""
    rl.ok("system", "check", "--force")
    assert rl.ok("images", "-q") == ""
