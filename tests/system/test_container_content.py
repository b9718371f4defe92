"""rl diff, export, commit, mount and unmount, in every way a root file system is made; and what goes wrong."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cgroup_lane import CgroupLane
from support.registry import Registry
from system.conftest import Rl, eventually

#: What the container does to the image's files, and what `rl diff` says of it.
WORK = """
echo new >/etc/new; rm /bin/ls; rm -r /home; mkdir /home; echo 1 >/home/x; ln -s /etc/passwd /link; mkdir -p /d/sub
echo 1 >/d/f; ln /d/f /d/g; mkfifo /fifo; chmod 700 /root; chown 7:8 /d/f; echo more >>/etc/group; rm /etc/not-executable
"""
DIFF = """C /bin
D /bin/ls
A /d
A /d/f
A /d/g
A /d/sub
C /etc
C /etc/group
A /etc/new
D /etc/not-executable
A /fifo
D /home
A /home/x
A /link
C /root
A /vol"""
#: The copy driver has no record of what was deleted and made again: two trees are compared.
COPIED = DIFF.replace("D /home\nA /home/x", "C /home\nD /home/app\nA /home/x")
#: What a container of the committed image must see.
LOOK = "cat /etc/new /home/x; ls() { stat -c '%n %a %u %g' $*; }; ls /d/f /root /home/* /link; stat -c %h /d/f; ls /bin/ls 2>&1; cat /etc/group | wc -l"
SEEN = "new\n1\n/d/f 644 7 8\n/root 700 0 0\n/home/x 644 0 0\n/link 777 0 0\n2\nstat: can't stat '/bin/ls': No such file or directory\n4"


@pytest.fixture(scope="module")
def box(_user_rl: Rl) -> Iterator[Rl]:
    """Container ``done``, which has ended, and ``box``, which runs; both have changed things."""
    rl = _user_rl
    for name, flags, rest in (("done", (), ""), ("box", ("-d",), "; sleep 1000")):
        rl.ok("run", *flags, "--name", name, "--network=none", "-v", "content:/vol", "-w", "/tmp", "-e", "A=1", "-l",
              "from=run", "--expose", "99", "busybox", "sh", "-c", WORK + "touch /vol/secret" + rest)
    eventually(lambda: "A /link" in rl.ok("diff", "box"))
    yield rl
    rl.clean()
    for image in rl.ok("images", "-q", "-f", "label=made=here").split():
        rl("rmi", "-f", image)
    rl("volume", "rm", "-f", "content")


def names(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def raw(rl: Rl, *arguments: str | Path, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(rl.user.argv(["rl", *map(str, rl.flags), *map(str, arguments)]), input=input, capture_output=True,
                          env=rl.user.env(), cwd=rl.user.home, timeout=60)


def test_diff(box: Rl) -> None:
    assert box.ok("diff", "done") == box.ok("container", "diff", "box") == DIFF
    assert box.ok("diff", "done", "busybox") == DIFF
    assert "D /etc/new" in box.ok("diff", "busybox", "done")
    assert json.loads(box.ok("diff", "--format", "json", "box")) == {
        title: [line[2:] for line in DIFF.split("\n") if line[0] == sign]
        for title, sign in (("changed", "C"), ("added", "A"), ("deleted", "D"))
    }
    assert "A /bin/busybox" in box.ok("image", "diff", "busybox").split("\n")
    assert box.ok("image", "diff", "busybox", "busybox") == ""
    assert json.loads(box.ok("image", "diff", "--format", "json", "busybox", "busybox")) == {}
    assert json.loads(box.ok("container", "diff", "--format=json", "--latest"))["deleted"][0] == "/bin/ls"
    box.ok("create", "--name", "fresh", "--network=none", "busybox")
    assert box.ok("diff", "--latest") == ""
    box.ok("rm", "fresh")


def test_export_and_import(box: Rl) -> None:
    """Neither whiteouts nor what is mounted are in it, and an import gives the same files."""
    found = names(raw(box, "export", "box").stdout)
    assert "bin/busybox" in found and "home/x" in found and "bin/ls" not in found and "home/app" not in found
    assert found["d/g"].islnk() and found["d/g"].linkname == "d/f" and (found["d/f"].uid, found["d/f"].gid) == (7, 8)
    assert not [name for name in found if name.startswith(("proc/", "sys/", "dev/", "vol/")) or ".wh." in name]
    assert found["etc/hosts"].size == 0
    box.ok("export", "-o", "done.tar", "done")
    assert names((box.user.home / "done.tar").read_bytes()).keys() == found.keys()
    image = box.ok("import", "-q", "-c", "LABEL made=here", "done.tar").removeprefix("sha256:")
    assert box.ok("run", "--rm", "--network=none", image, "sh", "-c", LOOK) == SEEN
    assert (raw(box, "image", "diff", image).stdout.count(b"\n")) > 200


def test_commit(box: Rl, tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        _commit(box, registry)


def _commit(box: Rl, registry: Registry) -> None:
    done = box("commit", "-a", "Someone", "-c", "CMD echo hi", "-c", "LABEL made=here", "--iidfile", "iid", "done", "made:1")
    assert done.returncode == 0 and "Copying blob sha256:" in done.stderr, done.stderr
    image = done.stdout.strip()
    assert (box.user.home / "iid").read_text() == image and len(image) == 64
    document = json.loads(box.ok("image", "inspect", "made:1"))[0]
    base = json.loads(box.ok("image", "inspect", "busybox"))[0]
    config = document["Config"]
    assert document["Id"] == image and document["Parent"] == base["Id"] and document["Author"] == "Someone"
    assert document["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert document["History"][:-1] == base["History"] and document["History"][-1]["created_by"] == "/bin/sh"
    assert (config["Cmd"], config["WorkingDir"], config["ExposedPorts"]) == (["/bin/sh", "-c", "echo hi"], "/tmp", {"99/tcp": {}})
    assert config["Labels"] == {"from": "run", "made": "here"} and "A=1" in config["Env"] and "Volumes" not in config
    assert box.ok("run", "--rm", "--network=none", "made:1", "sh", "-c", LOOK) == SEEN
    layer = document["RootFS"]["Layers"][-1][7:]
    blob = names((box.data / "content/blobs/sha256" / layer).read_bytes())
    assert {"bin/.wh.ls", "home/.wh..wh..opq", "etc/.wh.not-executable"} < blob.keys()
    assert not [name for name in blob if name in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run/.containerenv",
                                                   "vol/secret")]
    # Others read it: unpacked by nobody but by what the archive says.
    box.ok("save", "-q", "--format", "oci-archive", "-o", "made.tar", "made:1")
    told = json.loads(box.user.run("skopeo", "inspect", "oci-archive:made.tar", check=True).stdout)
    assert len(told["Layers"]) == len(document["RootFS"]["Layers"])
    box.user.run("skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "oci-archive:made.tar",
                 f"docker://{registry.host}/made:1", check=True)
    box.ok("rmi", "made:1")
    assert box.ok("run", "--rm", "--network=none", f"{registry.host}/made:1", "sh", "-c", LOOK) == SEEN
    box.ok("rmi", f"{registry.host}/made:1")


def test_commit_flags(box: Rl) -> None:
    image = box.ok("commit", "-q", "-f", "docker", "-m", "why", "-c", "ONBUILD RUN x", "-c", "LABEL made=here",
                   "--include-volumes", "--squash", "--pause", "box")
    document = json.loads(box.ok("image", "inspect", image))[0]
    assert document["RepoTags"] == [] and document["Comment"] == "why" and len(document["RootFS"]["Layers"]) == 1
    assert document["ManifestType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert document["Config"]["OnBuild"] == ["RUN x"] and list(document["Config"]["Volumes"]) == ["/vol"]
    assert box.ok("run", "--rm", "--network=none", image, "sh", "-c", LOOK) == SEEN
    (box.user.home / "config.json").write_text('{"Cmd": ["true"], "Env": ["A=2"], "Labels": {"made": "here"}}')
    image = box.ok("container", "commit", "-q", "--config", "config.json", "box", "other.example/made")
    config = json.loads(box.ok("image", "inspect", "other.example/made:latest"))[0]["Config"]
    assert config["Cmd"] == ["true"] and "A=2" in config["Env"] and config["Labels"] == {"from": "run", "made": "here"}


def test_committed_again(box: Rl) -> None:
    """Layers on layers: what one deletes stays away, what another one brings back is there."""
    first = box.ok("commit", "-q", "-c", "LABEL made=here", "done")
    box.ok("run", "--name", "again", "--network=none", first, "sh", "-c", "rm -r /d /home/x; mkdir /d; echo 2 >/d/h; >/bin/ls")
    assert box.ok("diff", "again") == "C /bin\nA /bin/ls\nD /d\nA /d/h\nC /etc\nC /home\nD /home/x"
    second = box.ok("commit", "-q", "-c", "LABEL made=here", "again")
    assert box.ok("run", "--rm", "--network=none", second, "sh", "-c", "echo /d/* /home/*; test -f /bin/ls") == "/d/h /home/*"
    assert box.ok("diff", second, first).split("\n")[:3] == ["C /bin", "A /bin/ls", "D /d"]
    box.ok("rm", "again")


def test_a_killed_commit_leaves_nothing(box: Rl) -> None:
    before = box.ok("images", "-a", "-q", "--no-trunc")
    blobs = box.data / "content/blobs/sha256"
    was = sorted(blobs.iterdir())
    box.ok("run", "--name", "heavy", "--network=none", "busybox", "dd", "if=/dev/zero", "of=/zeros", "bs=1M", "count=64")
    for pause in (0.1, 0.2):
        process = box.user.popen("rl", "commit", "-q", "heavy", "heavy", stdout=subprocess.DEVNULL)
        time.sleep(pause)
        process.kill()
        process.wait()
        box("rmi", "-f", "heavy")
    eventually(lambda: box("rm", "heavy").returncode == 0)
    box.ok("commit", "-q", "done", "swept")
    box.ok("rmi", "swept")
    assert box.ok("images", "-a", "-q", "--no-trunc") == before
    assert sorted(blobs.iterdir()) == was and not list((box.data / "content/partial").iterdir())


def test_a_frozen_container_goes_on(box: Rl) -> None:
    """--pause freezes it, and whoever kills the command does not leave it frozen; one that was paused stays so."""
    box.ok("rm", "--ignore", "-f", "-t", "0", "cold")
    script = """
        rl run -d --name cold --network=none busybox sh -c 'dd if=/dev/zero of=/big bs=1M count=96; sleep 1000' >/dev/null
        events=/sys/fs/cgroup$(rl inspect --format '{{.State.CgroupPath}}' cold)/cgroup.events
        until [ "$(rl exec cold stat -c %s /big)" = 100663296 ]; do sleep 0.05; done
        frozen() { until grep -q "frozen $1" $events; do :; done; }
        rl commit -q --pause cold >/dev/null & frozen 1; kill -9 $!; frozen 0
        rl cp --pause cold:/big cold.big & frozen 1; wait $!; frozen 0
        rl pause cold; rl cp --pause cold:/etc/passwd cold.passwd; frozen 1; rl unpause cold; frozen 0; echo well
        rl rm -f -t 0 cold; rm cold.big
    """
    with CgroupLane(box.user) as lane:
        done = lane.run("timeout", "60", "sh", "-ec", script)
    assert done.stdout.split() == ["cold", "cold", "well", "cold"], done.stderr


def test_mount(box: Rl) -> None:
    """Inside of `rl unshare`; outside, the hint says so."""
    for words in ("mount", "mount done", "unmount done", "umount -a", "image mount busybox"):
        done = box(*words.split())
        assert done.returncode == 125 and "must execute `rl unshare` first" in done.stderr, words
    script = """
        set -e
        one=$(rl mount done); two=$(rl container mount box); cat $one/etc/new $two/etc/new; echo written >$one/etc/new
        test "$(rl mount done)" = $one
        rl mount --no-trunc | sort >table; rl mount --format json
        (cd $one; rl umount done || true); rl umount --force done; rl unmount -a >ids; rl mount
        image=$(rl image mount busybox); test -x $image/bin/busybox; touch $image/x 2>/dev/null || echo read-only
        rl image mount; rl image umount busybox; rl image umount busybox || true; rl image unmount --all
        rl mount --all | wc -l
        test "$(rl mount --latest)" = $two; rl container unmount --latest >last; test "$(rl mount | wc -l)" = 1; rl umount -a >last
        rl image mount --all | grep -q mounts/$1; rl image mount --format json | grep -q '"mountpoint": .*'$1
        rl image umount --force $1 >last; rl image unmount --all >last; test -z "$(rl image mount)"
    """
    image = box.ok("image", "inspect", "--format", "{{.Id}}", "busybox")
    done = box.user.run("rl", "unshare", "sh", "-c", script, "sh", image)
    assert done.returncode == 0, done.stderr
    ids = {name: box.ok("inspect", "--format", "{{.Id}}", name) for name in ("done", "box")}
    places = {name: f"{box.data}/containers/{ids[name]}/rootfs" for name in ids}
    lines = done.stdout.split("\n")
    assert lines[:2] == ["new", "new"]
    end = lines.index("]")
    found = json.loads("\n".join(lines[2 : end + 1]))
    assert {(row["id"], *row["Names"], row["mountpoint"]) for row in found} == {(ids[n], n, places[n]) for n in ids}
    assert lines[end + 1 :] == ["done", "read-only", f"docker.io/library/busybox:latest  {box.data}/mounts/{image}",
                                image, str(len(box.containers())), ""]
    assert "container done: it is in use" in done.stderr and "image busybox is not mounted" in done.stderr
    assert (box.user.home / "table").read_text().split() == [w for n in sorted(ids, key=lambda n: ids[n])
                                                            for w in (ids[n], places[n])]
    assert (box.user.home / "ids").read_text() == ids["box"] + "\n"
    assert raw(box, "cp", "done:/etc/new", "-").stdout.count(b"written") == 1  # what was written there is the container's
    box.ok("cp", "box:/etc/new", "done:/etc/new")


#: (arguments, part of the error)
BAD = [
    ("diff", 'requires a name, id, or the "--latest" flag'),
    ("diff none", "none not found: layer not known"),
    ("diff done none", "none not found: layer not known"),
    ("container diff busybox", "busybox not found: container not known"),
    ("image diff done", "done not found: done: image not known"),
    ("diff --format yaml done", "only supported value for '--format' is 'json'"),
    ("diff --latest done", "--latest and containers cannot be used together"),
    ("export", "accepts 1 arg(s), received 0"),
    ("export none", 'no container with name or ID "none" found: no such container'),
    ("export -o a:b done", "invalid filename (should not contain ':')"),
    ("export -o /no/such/file done", "open /no/such/file: No such file or directory"),
    ("commit", "accepts between 1 and 2 arg(s), received 0"),
    ("commit none", 'no container with name or ID "none" found: no such container'),
    ("commit done Up:Per", "Up:Per"),
    ("commit -f tar done", 'unrecognized image format "tar"'),
    ("commit -m text done", "messages are only compatible with the docker image format"),
    ("commit -c FOO=1 done", "not an instruction"),
    ("commit -c EXPOSE=x done", "not a port"),
    ("commit --config /no/such done", "/no/such"),
    ("commit --config /etc/passwd done", "/etc/passwd"),
    ("mount --format yaml done", 'unknown --format argument: "yaml"'),
    ("mount --all done", "no arguments are needed with --all"),
    ("unmount", "you must provide at least one name or id"),
    ("unmount none", 'no container with name or ID "none" found'),
    ("umount --all done", "no arguments are needed with --all"),
    ("image unmount", "image name or ID must be specified"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_refuses(box: Rl, words: str, says: str) -> None:
    done = box(*words.split())
    assert done.returncode == 125 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and says in errors[0] and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("words", ["export done", "cp done:/etc -"])
def test_a_terminal_gets_no_archive(box: Rl, words: str) -> None:
    done = box.user.run("script", "-qec", f"rl {words}", "/dev/null")
    assert done.returncode == 125 and "terminal" in done.stdout and len(done.stdout) < 300


def test_an_ambiguous_id(box: Rl) -> None:
    made: list[str] = []
    while len({container[0] for container in made}) == len(made):  # at most 17
        made.append(box.ok("create", "--network=none", "busybox"))
    prefix = made[-1][0]
    for words in (f"cp {prefix}:/etc .", f"export {prefix}", f"commit {prefix}", f"diff {prefix}"):
        done = box(*words.split())
        assert done.returncode == 125 and "containers have an id that begins with" in done.stderr, words
    box.ok("rm", *made)


@pytest.mark.parametrize("lane", ["fuse", "single", "root"], indirect=True)
def test_every_lane(lane: Rl) -> None:
    """fuse-overlayfs, a single id, real root."""
    _whole_round(lane, DIFF.replace("\nA /vol", ""), single=lane.lane == "single")
    done = lane("system", "reset", "--force")
    assert (done.returncode, done.stderr) == (0, "") and not lane.run_dir.exists()


def test_copy_driver(box: Rl) -> None:
    box.ok("rm", "--ignore", "round")
    _whole_round(Rl(box.user, flags=["--storage-driver", "copy"]), COPIED.replace("\nA /vol", ""), runs_with=box)


def _whole_round(rl: Rl, expected: str, *, single: bool = False, runs_with: Rl | None = None) -> None:
    work = WORK.replace("chown 7:8 /d/f; ", "") if single else WORK
    rl.ok("run", "-d", "--name", "round", "--network=none", "busybox", "sh", "-c", f"{work} echo; sleep 1000")
    eventually(lambda: "D /etc/not-executable" in rl.ok("diff", "round"))
    assert set(rl.ok("top", "round", "user").split()) == {"USER", "root"}  # by the container's own passwd
    for stopped in (False, True):
        if stopped:
            rl.ok("stop", "-t", "0", "round")
        assert rl.ok("diff", "round") == expected + ("\nA /tmp/in" if stopped else "").replace("\nA", "\nC /tmp\nA", 1)
        found = names(raw(rl, "export", "round").stdout)
        assert "home/x" in found and "home/app" not in found and "bin/ls" not in found and "bin/busybox" in found
        seen = SEEN.replace("7 8\n", "0 0\n") if single else SEEN
        if not stopped:
            image = rl.ok("commit", "-q", "round")
            assert (runs_with or rl).ok("run", "--rm", "--network=none", image, "sh", "-c", LOOK) == seen
            rl.ok("rmi", image)
        (rl.user.home / "in").write_text("in")
        rl.ok("cp", rl.user.home / "in", "round:/tmp/in")
        rl.ok("cp", "round:/tmp/in", rl.user.home / "out")
        assert (rl.user.home / "out").read_text() == "in"
        if not stopped:
            continue
        look = "cat $(rl {0} mount round)/tmp/in && rl {0} umount round".format(" ".join(rl.flags))
        done = rl.user.run("sh", "-c", look) if rl.lane == "root" else rl.user.run("rl", "unshare", "sh", "-c", look)
        assert done.stdout == "inround\n", done.stderr
    rl.ok("rm", "round")
