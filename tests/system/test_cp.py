"""rl cp: the table of podman-cp(1), both ways and between containers, running and not; streams, owners, wrong input."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from system.conftest import Rl, eventually

Tree = dict[str, str]  # path → contents; a directory ends in /, a link's contents are "-> target", a fifo's "|"

SOURCE: Tree = {"f": "data", "d/": "", "d/x": "x", "d/sub/": "", "d/sub/y": "y", "l": "-> f", "ld": "-> d",
                "dangling": "-> nowhere", "p": "|"}
TARGET: Tree = {"dir/": "", "dir/kept": "k", "file": "old", "dir/f/": "", "to": "-> dir", "into": "-> file"}

MISSING = "could not be found"
NO_DIRECTORY = "destination must be a directory when copying a directory"

#: (source, destination, what is new or changed there, or the error): podman-cp(1), "DESCRIPTION"
CASES: list[tuple[str, str, Tree | str]] = [
    ("f", "new", {"new": "data"}),
    ("f", "file", {"file": "data"}),
    ("d/x", "dir", {"dir/x": "x"}),
    ("d/x", "dir/", {"dir/x": "x"}),
    ("d/x", "to", {"dir/x": "x"}),
    ("f", "into", {"file": "data"}),
    ("f", "no/such", MISSING),
    ("f", "new/", MISSING),
    ("f", "file/x", MISSING),
    ("f", "dir", "a file cannot take the place of a directory"),
    ("d", "new", {"new/": "", "new/x": "x", "new/sub/": "", "new/sub/y": "y"}),
    ("d/.", "new", {"new/": "", "new/x": "x", "new/sub/": "", "new/sub/y": "y"}),
    ("d", "dir", {"dir/d/": "", "dir/d/x": "x", "dir/d/sub/": "", "dir/d/sub/y": "y"}),
    ("d/", "dir", {"dir/d/": "", "dir/d/x": "x", "dir/d/sub/": "", "dir/d/sub/y": "y"}),
    ("d/.", "dir", {"dir/x": "x", "dir/sub/": "", "dir/sub/y": "y"}),
    ("d", "no/such", MISSING),
    ("d", "file", NO_DIRECTORY),
    ("l", "new", {"new": "data"}),
    ("ld", "new", {"new/": "", "new/x": "x", "new/sub/": "", "new/sub/y": "y"}),
    ("dangling", "new", MISSING),
    ("nothing", "new", MISSING),
    ("p", "new", {"new": "|"}),
]
SOME = [CASES[i] for i in (0, 2, 5, 9, 14, 16, 17, 20)]


def archive(trees: dict[str, Tree]) -> bytes:
    """A tar archive of trees, each below its name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for top, tree in trees.items():
            for path, text in {"": "", **tree}.items():
                member = tarfile.TarInfo(f"{top}/{path}")
                member.mode = 0o755
                if not path or path.endswith("/"):
                    member.type = tarfile.DIRTYPE
                elif text.startswith("-> "):
                    member.type, member.linkname = tarfile.SYMTYPE, text[3:]
                elif text == "|":
                    member.type = tarfile.FIFOTYPE
                else:
                    member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def trees_of(data: bytes) -> dict[str, Tree]:
    """The inverse of :func:`archive`."""
    found: dict[str, Tree] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            top, _, path = member.name.partition("/")
            tree = found.setdefault(top, {})
            if not path:
                continue
            if member.isdir():
                tree[path + "/"] = ""
            elif member.isreg():
                tree[path] = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            else:
                tree[path] = f"-> {member.linkname}" if member.issym() else "|"
    return found


class Stage:
    """Containers ``run`` (running; user 1234:99) and ``still`` (never started), and a directory of the host."""

    def __init__(self, rl: Rl) -> None:
        self.rl = rl
        self.host = rl.user.home / "stage"

    def raw(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.rl.user.argv(["rl", *arguments]), input=input, capture_output=True, env=self.rl.user.env(),
            cwd=self.rl.user.home, timeout=60,
        )

    def put(self, side: str, trees: dict[str, Tree]) -> None:
        """*trees* at *side*: host, run or still."""
        data = archive(trees)
        if side == "host":
            self.host.mkdir(exist_ok=True)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.extractall(self.host)
            subprocess.run(["chown", "-R", f"{self.rl.user.uid}:{self.rl.user.gid}", self.host], check=True)
        else:
            done = self.raw("cp", "-", f"{side}:/stage", input=data)
            assert done.returncode == 0, done.stderr

    def get(self, side: str) -> dict[str, Tree]:
        if side == "host":
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                for path in sorted(self.host.iterdir()):
                    tar.add(path, path.name)
            return trees_of(out.getvalue())
        done = self.raw("cp", f"{side}:/stage/.", "-")
        assert done.returncode == 0, done.stderr
        return trees_of(done.stdout)

    def path(self, side: str, name: str) -> str:
        return f"{self.host}/{name}" if side == "host" else f"{side}:/stage/{name}"


@pytest.fixture(scope="module")
def stage(_user_rl: Rl) -> Iterator[Stage]:
    rl = _user_rl
    rl.ok("run", "-d", "--name", "run", "--network=none", "-u", "1234:99", "-v", "kept:/vol", "busybox", "sleep", "1000")
    rl.ok("create", "--name", "still", "--network=none", "-v", "kept:/vol", "-w", "/etc", "busybox", "true")
    made = Stage(rl)
    subprocess.run(["rm", "-rf", made.host], check=True)
    for side in ("run", "still"):
        data = archive({"stage": {}})
        assert made.raw("cp", "-", f"{side}:/", input=data).returncode == 0
    yield made
    rl.clean()
    rl("volume", "rm", "-f", "kept")
    subprocess.run(["rm", "-rf", made.host], check=True)


@pytest.mark.parametrize(
    ("start", "end", "cases"),
    [("host", "run", CASES), ("run", "host", CASES), ("host", "still", SOME), ("still", "host", SOME), ("still", "run", SOME)],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_what_ends_up_where(stage: Stage, start: str, end: str, cases: list[tuple[str, str, Tree | str]]) -> None:
    stage.put(start, {f"from-{start}-{end}": SOURCE})
    stage.put(end, {f"{start}-{end}-{n}": TARGET for n in range(len(cases))})
    wrong = []
    for n, (source, destination, expected) in enumerate(cases):
        done = stage.rl("cp", stage.path(start, f"from-{start}-{end}/{source}"),
                        stage.path(end, f"{start}-{end}-{n}/{destination}"))
        if isinstance(expected, str) and (done.returncode != 125 or expected not in done.stderr):
            wrong.append((source, destination, expected, done.returncode, done.stderr))
        elif not isinstance(expected, str) and done.returncode:
            wrong.append((source, destination, "", done.returncode, done.stderr))
    found = stage.get(end)
    for n, (source, destination, expected) in enumerate(cases):
        changes = {} if isinstance(expected, str) else expected
        if found[f"{start}-{end}-{n}"] != {**TARGET, **changes}:
            wrong.append((source, destination, str(changes), 0, str(found[f"{start}-{end}-{n}"])))
    assert not wrong, "\n".join(map(str, wrong))


def test_owners(stage: Stage) -> None:
    """Into a container files get its user's ids, or keep theirs; out of it they belong to the caller."""
    rl = stage.rl
    stage.put("host", {"own": {"f": "1", "d/": "", "d/g": "2"}})
    rl.ok("cp", f"{stage.host}/own", "run:/tmp/a")
    rl.ok("cp", "--archive=false", f"{stage.host}/own", "run:/tmp/b")
    stage.raw("cp", "-a=false", "-", "run:/tmp", input=subprocess.run(
        ["tar", "c", "--owner=:7", "--group=:8", "-C", stage.host / "own", "f"], capture_output=True, check=True).stdout)
    rl.ok("cp", "-a=0", "run:/tmp/f", "still:/tmp/kept")  # between containers the numbers are theirs
    assert rl.ok("exec", "run", "stat", "-c", "%n %u %g", "/tmp/a", "/tmp/a/d/g", "/tmp/b/d/g", "/tmp/f").split("\n") == [
        "/tmp/a 1234 99", "/tmp/a/d/g 1234 99", "/tmp/b/d/g 0 0", "/tmp/f 7 8"]
    with tarfile.open(fileobj=io.BytesIO(stage.raw("cp", "still:/tmp/kept", "-").stdout)) as tar:
        assert [(m.name, m.uid, m.gid) for m in tar] == [("kept", 7, 8)]
    rl.ok("cp", "run:/tmp/a", stage.host / "out")
    assert {p.stat().st_uid for p in (stage.host / "out", stage.host / "out/d/g")} == {rl.user.uid}


def test_owners_with_keep_id(stage: Stage) -> None:
    rl = stage.rl
    rl.ok("run", "-d", "--name", "keep", "--network=none", "--userns=keep-id", "-v", f"{stage.host}:/host", "busybox",
          "sleep", "1000")
    stage.put("host", {"keep": {"f": "1"}})
    rl.ok("cp", stage.host / "keep/f", "keep:/tmp/mine")
    rl.ok("cp", "-a=false", "run:/tmp/f", "keep:/tmp/theirs")
    rl.ok("cp", stage.host / "keep/f", "keep:/host/through")
    uid, gid = rl.user.uid, rl.user.gid
    assert rl.ok("exec", "keep", "stat", "-c", "%u %g", "/tmp/mine", "/tmp/theirs", "/host/through").split("\n") == [
        f"{uid} {gid}", "7 8", f"{uid} {gid}"]
    assert (stage.host / "through").stat().st_uid == uid
    rl.ok("stop", "-t", "0", "keep")
    rl.ok("cp", stage.host / "keep/f", "keep:/tmp/after")
    with tarfile.open(fileobj=io.BytesIO(stage.raw("cp", "keep:/tmp/.", "-").stdout)) as tar:
        assert {m.name: (m.uid, m.gid) for m in tar} == {
            "mine": (uid, gid), "theirs": (7, 8), "after": (uid, gid)}


def test_volumes_and_mounted_files(stage: Stage) -> None:
    """A path leads where the container would get; what is mounted below a copied directory stays out."""
    rl = stage.rl
    stage.put("host", {"vol": {"f": "1"}})
    rl.ok("cp", stage.host / "vol/f", "still:/vol/a")  # by the record
    rl.ok("cp", stage.host / "vol/f", "run:/vol/b")
    assert rl.ok("exec", "run", "ls", "/vol") == "a\nb"
    rl.ok("cp", stage.host / "vol/f", "run:/etc/hosts")  # a mount point: it is written in place
    assert rl.ok("exec", "run", "cat", "/etc/hosts") == "1"
    rl.ok("cp", stage.host / "vol/f", "still:relative")  # to the working directory
    rl.ok("cp", "still:/etc/relative", stage.host / "vol/g")
    rl.ok("cp", "run:/", stage.host / "all")
    assert (stage.host / "all/bin/busybox").exists()
    assert [list((stage.host / "all" / name).iterdir()) for name in ("proc", "sys", "vol", "dev")] == [[]] * 4
    rl.ok("cp", "run:/dev", stage.host / "devices")  # devices cannot be made: they stay out
    assert not (stage.host / "devices/null").exists() and (stage.host / "devices/pts").is_dir()
    rl.ok("cp", "run:/proc/1/status", stage.host / "status")
    assert "PPid" in (stage.host / "status").read_text()


@pytest.mark.parametrize("status", ["initialized", "restarting"])
def test_with_a_monitor_that_waits(stage: Stage, status: str) -> None:
    """Its files are mounted and its lock is taken, but no process of it can be asked."""
    rl, words = stage.rl, ["--name=waits", "--network=none", "-v", "kept:/vol", "busybox", "sh", "-c"]
    stage.put("host", {"wait": {"f": "1"}})
    if status == "initialized":
        rl.ok("create", *words, "cat /f /vol/w")
        rl.ok("init", "waits")
    else:
        rl.ok("run", "-d", "--restart=always", *words, "cat /f /vol/w && exec sleep 1000")
    eventually(lambda: rl.ok("inspect", "-f", "{{.State.Status}}", "waits") == status)
    rl.ok("cp", stage.host / "wait/f", "waits:/f")
    rl.ok("cp", stage.host / "wait/f", "waits:/vol/w")
    assert b"bin/busybox" in stage.raw("export", "waits").stdout
    assert "A /f\n" in rl.ok("diff", rl.ok("commit", "-q", "--squash", "waits")) + "\n"
    rl.ok("start", "waits")
    eventually(lambda: rl.ok("logs", "waits").endswith("11"))
    rl.ok("cp", "waits:/vol/w", stage.host / "wait/g")
    rl.ok("rm", "-f", "-t", "0", "waits")


def test_what_files_are_made_of(stage: Stage) -> None:
    """Holes, modes, times, attributes and hard links there and back; with many bytes in constant memory."""
    rl = stage.rl
    source = stage.host / "made"
    source.mkdir(exist_ok=True)
    (source / "big").write_bytes(os.urandom(3 << 20))
    with open(source / "holes", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"x")
    (source / "mode").write_text("m")
    (source / "mode").chmod(0o4751)
    os.setxattr(source / "mode", "user.note", b"n")
    os.link(source / "mode", source / "other")
    os.utime(source / "mode", ns=(1_000_000_001, 1_234_567_891))
    subprocess.run(["chown", "-R", f"{rl.user.uid}:{rl.user.gid}", source], check=True)
    (source / "mode").chmod(0o4751)
    for there in ("run", "still"):
        rl.ok("cp", source, f"{there}:/tmp/made")
        rl.ok("cp", f"{there}:/tmp/made", stage.host / there)
        back = stage.host / there
        assert (back / "big").read_bytes() == (source / "big").read_bytes()
        assert (back / "holes").stat().st_size == 1 << 30 and (back / "holes").stat().st_blocks < 1000
        status = (back / "mode").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o4751, 1_234_567_891, 2)
        assert os.getxattr(back / "mode", "user.note") == b"n" and (back / "other").samefile(back / "mode")


def test_streams(stage: Stage) -> None:
    rl = stage.rl
    for flag in ("", "z", "j", "J"):
        stage.put("host", {"packed": {"f": flag or "plain"}})
        data = subprocess.run(["tar", f"c{flag}", "-C", stage.host, "packed"], capture_output=True, check=True).stdout
        assert stage.raw("cp", "-", "run:/tmp", input=data).returncode == 0
        assert rl.ok("exec", "run", "cat", "/tmp/packed/f") == (flag or "plain")
    with tarfile.open(fileobj=io.BytesIO(stage.raw("cp", "run:/tmp/packed", "-").stdout)) as tar:
        assert [(m.name, m.uid) for m in tar] == [("packed", 1234), ("packed/f", 1234)]
    with tarfile.open(fileobj=io.BytesIO(stage.raw("cp", "run:/tmp/packed/f", "-").stdout)) as tar:
        assert tar.getnames() == ["f"]
    literal = archive({".wh.packed": {".wh.f": "x"}})  # no layer: names mean nothing here
    assert stage.raw("cp", "-", "run:/tmp", input=literal).returncode == 0
    assert rl.ok("exec", "run", "ls", "-A", "/tmp/.wh.packed", "/tmp/packed") == "/tmp/.wh.packed:\n.wh.f\n\n/tmp/packed:\nf"


#: (arguments, standard input, part of the error)
BAD = [
    ("one", b"", "accepts 2 arg(s), received 1"),
    ("a b", b"", "neither"),
    ("- b", b"", "neither"),
    ("none:/x .", b"", 'container "none" does not exist'),
    (". none:/x", b"", 'container "none" does not exist'),
    ("run: /tmp", b"", "you must specify paths"),
    ("run:/nothing .", b"", '"/nothing" could not be found on container run: no such file or directory'),
    ("nothing run:/", b"", '"nothing" could not be found on the host: no such file or directory'),
    ("- run:/etc/passwd", archive({}), "destination must be a directory when copying from stdin"),
    ("- run:/tmp", b"not tar", "source must be a (compressed) tar archive when copying from stdin"),
    ("- run:/tmp", archive({"x": {"f": "1" * 2000}})[:1500], "truncated"),
    ("- run:/tmp", archive({"../x": {}}), "points outside"),
    ("/dev/null run:/tmp/x", b"", "device"),
    ("run:/dev/null x", b"", "device"),
    ("run:/etc/passwd /dev/null", b"", "must be a directory or a regular file"),
    ("run:/tmp run:/tmp/sub", b"", "cannot copy a directory into itself"),
    ("--bogus a b", b"", "unknown flag: --bogus"),
]


@pytest.mark.parametrize(("words", "data", "says"), BAD)
def test_refuses(stage: Stage, words: str, data: bytes, says: str) -> None:
    done = stage.raw("cp", *words.split(), input=data)
    assert done.returncode == 125
    assert says in done.stderr.decode() and "Traceback" not in done.stderr.decode()


def test_overwrite(stage: Stage) -> None:
    """Only asked for, a directory takes the place of a file, or a file that of a directory."""
    rl = stage.rl
    stage.put("host", {"over": {"a": "file", "b/": "", "b/x": "1"}})
    stage.put("run", {"over": {"a/": "", "a/y": "2", "b": "file"}})
    for flags, code in ((("cp",), 125), (("cp", "--overwrite"), 0)):
        assert rl(*flags, f"{stage.host}/over/.", "run:/stage/over").returncode == code
        assert rl(*flags, f"{stage.host}/over/a", "run:/stage/over").returncode == code
        assert rl(*flags, f"{stage.host}/over/b", "run:/stage/over").returncode == code
        data = archive({"over": {"a": "file", "b/": "", "b/x": "1"}})
        assert stage.raw(*flags, "-", "run:/stage", input=data).returncode == code
    assert stage.get("run")["over"] == {"a": "file", "b/": "", "b/x": "1"}


def test_killed_and_beside_a_start(stage: Stage) -> None:
    """A killed copy frees the container; a start waits for one that is at work, then has all of it."""
    rl = stage.rl
    stage.host.mkdir(exist_ok=True)
    (stage.host / "large").write_bytes(bytes(1 << 20) * 64)
    for kill in (True, False):
        process = rl.user.popen("rl", "cp", str(stage.host / "large"), "still:/large")
        eventually(lambda: [p for p in (rl.run_dir / "containers").glob("*/lock") if p.read_text() == "files"], every=0.005)
        if kill:
            process.kill()
            process.wait()
        assert "still" in rl.ok("ps", "-a", "--format", "{{.Names}}")  # which waits for nobody
        rl.ok("start", "-a", "still")
        assert process.wait() == (-9 if kill else 0)
    rl.ok("cp", "still:/large", stage.host / "back")
    assert (stage.host / "back").stat().st_size == 64 << 20


def test_there_and_back_at_once(stage: Stage) -> None:
    """Both copies need both containers' locks; neither waits for the other for ever."""
    rl = stage.rl
    rl.ok("create", "--name", "other", "--network=none", "busybox", "true")
    for round_ in range(4):
        lines = ((f"{a}:/bin", f"{b}:/copy{round_}") for a, b in (("still", "other"), ("other", "still")))
        copies = [rl.user.popen("rl", "cp", *line) for line in lines]
        assert [copy.wait(30) for copy in copies] == [0, 0]
    rl.ok("rm", "other")


def test_mounts_of_a_stopped_container(stage: Stage) -> None:
    """Parts of volumes and images lead where they would; what a start makes anew each time is read-only."""
    rl = stage.rl
    stage.put("host", {"bound": {"f": "1"}})
    rl.ok("cp", f"{stage.host}/bound/.", "run:/vol/part")
    rl.ok("create", "--name", "kinds", "--network=none", "-v", f"{stage.host}/bound:/over:O", "-v",
          f"{stage.host}/bound:/plain", "--mount", "type=volume,src=kept,dst=/part,subpath=part", "--mount",
          "type=image,src=busybox,dst=/image", "busybox")
    for path, text in (("/over/f", "1"), ("/plain/f", "1"), ("/part/f", "1")):
        rl.ok("cp", f"kinds:{path}", stage.host / "read")
        assert (stage.host / "read").read_text() == text, path
    rl.ok("cp", "kinds:/image/etc/passwd", stage.host / "read")
    rl.ok("cp", "kinds:/part/f", "kinds:/part/g")
    rl.ok("cp", "kinds:/plain/f", "kinds:/plain/g")
    assert rl.ok("exec", "run", "ls", "/vol/part") == "f\ng" and (stage.host / "bound/g").read_text() == "1"
    done = rl("cp", "kinds:/plain/f", "kinds:/over/new")
    assert done.returncode == 125 and "mounted read-only" in done.stderr
    assert not (stage.host / "bound/new").exists()
    rl.ok("rm", "kinds")
