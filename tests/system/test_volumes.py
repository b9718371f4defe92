"""rl volume, and volumes of containers, as an ordinary user: words, exit codes, output; what is kept and what goes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from system.conftest import Done, Rl, eventually, unique_user

RUN = ("run", "--rm", "--network=none")


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    """A user of this module alone: nobody else's volumes are listed."""
    one = Rl(unique_user("rltest-vol"))
    one.ok("load", "-q", "-i", busybox_archive)
    yield one
    one.clean()
    users.wipe(one.user)
    for path in one.user.home.glob("*.tar*"):
        path.unlink()
    shutil.rmtree(one.user.home / "shared", ignore_errors=True)


@pytest.fixture(autouse=True)
def no_volume_left(rl: Rl) -> Iterator[None]:
    yield
    rl("volume", "rm", "--all", "--force", "--time", "0")
    assert not [name for name in os.listdir(rl.data / "volumes") if not name.endswith(".new")]


def volumes(rl: Rl, *words: str) -> list[str]:
    return rl.ok("volume", "ls", "-q", *words).split()


def inspect(rl: Rl, name: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(rl.ok("volume", "inspect", name))[0]
    return document


def walk(rl: Rl, steps: list[tuple[str, int, str]]) -> None:
    """One command after the other: (words, exit code, all of stdout, or with … a part of stderr)."""
    for words, code, expected in steps:
        done: Done = rl(*shlex.split(words))
        if expected.startswith("…"):
            assert (done.returncode, expected[1:] in done.stderr) == (code, True), (words, done)
            assert "hint:" in done.stderr, (words, done.stderr)
        else:
            assert (done.returncode, done.stdout.rstrip("\n")) == (code, expected), (words, done)


def test_commands(rl: Rl) -> None:
    walk(rl, [
        ("volume create one", 0, "one"),
        ("volume create one", 125, "…volume with name one already exists: volume already exists"),
        ("volume create --ignore one", 0, "one"),
        ("volume create -l a=b --label c -o type=tmpfs -o o=size=1m,mode=1777 --driver local mem", 0, "mem"),
        ("volume create --uid 7 --gid 8 owned", 0, "owned"),
        ("volume create -o o=uid=5,gid=6 -o nocopy opts", 0, "opts"),
        ("volume ls -q", 0, "mem\none\nopts\nowned"),
        ("volume ls --noheading --filter name=^o", 0,
         "local       one\nlocal       opts\nlocal       owned"),
        ("volume list -f label=a=b -q", 0, "mem"),
        ("volume ls -f label!=a -q", 0, "one\nopts\nowned"),
        ("volume ls -f opt=type=tmpfs -q", 0, "mem"),
        ("volume ls -f driver=local -f scope=local -f anonymous=false -f dangling=true -f until=1h -q", 0, ""),
        ("volume ls -f dangling=false -q", 0, ""),
        ("volume ls -f since=one -q", 0, "mem\nopts\nowned"),
        ("volume ls -f after=mem -q", 0, "opts\nowned"),
        ("volume ls --format '{{.Name}} {{.Driver}} {{.UID}} {{.GID}} {{.Labels}}'", 0,
         "mem local 0 0 map[a:b c:]\none local 0 0 map[]\nopts local 5 6 map[]\nowned local 7 8 map[]"),
        ("volume exists one", 0, ""),
        ("volume exists on", 1, ""),
        ("volume inspect -f '{{.Name}} {{.Options.SIZE}} {{.Scope}}' me", 0, "mem 1048576 local"),
        ("volume inspect --all --format '{{.Name}}'", 0, "mem\none\nopts\nowned"),
        ("volume rename one uno", 0, "uno"),
        ("volume rename uno mem", 125, "…volume with name mem already exists"),
        ("volume rename uno ../x", 125, "…names must match"),
        ("volume reload", 0, ""),
        ("volume unmount uno", 0, "uno"),
        ("volume mount uno", 125, "…rootless mode, must execute `rl unshare` first"),
        ("volume rm ow uno", 0, "owned\nuno"),
        ("volume rm --all", 0, "mem\nopts"),
    ])  # fmt: skip
    name = rl.ok("volume", "create")
    assert len(name) == 64
    assert volumes(rl) == [name]


# (words, exit code, part of the error)
BAD = [
    ("volume create bad/name", 125, "names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*"),
    ("volume create -d vieux/sshfs x", 125, "rl runs no volume plugins"),
    ("volume create -o foo=bar x", 125, "invalid mount option foo for driver 'local'"),
    ("volume create -o type=ext4 -o device=/dev/sda x", 125, "needs root's privileges"),
    ("volume create -o o=size=10m x", 125, "project quota"),
    ("volume create -o type=bind -o device=/no/such -o o=bind x", 125, "/no/such: no such file or directory"),
    ("volume create --uid 4000000 x", 125, "give it to 4000000"),
    ("volume create --label =x x", 125, "no key"),
    ("volume ls -f nosuch=1", 125, '"nosuch" is an invalid volume filter'),
    ("volume ls -f dangling=maybe", 125, "must be true or false"),
    ("volume ls -f name=[", 125, "regular expression"),
    ("volume ls -q --format x", 125, "quiet and format flags cannot be used together"),
    ("volume ls --format {{.Nosuch}}", 125, "can't evaluate field Nosuch"),
    ("volume inspect nosuch", 125, "inspecting object: no such volume nosuch"),
    ("volume inspect two", 125, 'more than one result for volume name "two"'),
    ("volume inspect", 125, "provide one or more volume names or use --all"),
    ("volume inspect --all two1", 125, "provide one or more volume names or use --all"),
    ("volume rm", 125, "choose either one or more volumes or all"),
    ("volume rm -a two1", 125, "choose either one or more volumes or all"),
    ("volume rm nosuch", 1, 'no volume with name "nosuch" found: no such volume'),
    ("volume rm two", 125, "more than one result"),
    ("volume rm -t 3 two1", 125, "--force option must be specified to use the --time option"),
    ("volume export nosuch", 125, "no such volume nosuch"),
    ("volume export two1 -o /no/such/file", 125, "unable to create target file path"),
    ("volume export two1 --output=", 125, "must provide valid path"),
    ("volume import nosuch /etc/passwd", 125, "no such volume nosuch"),
    ("volume import two1 /no/such", 125, "open /no/such: no such file or directory"),
    ("volume import two1 /etc/passwd", 125, "is it a tar archive?"),
    ("volume import two1 /dev/null", 125, "is empty"),
    ("volume prune --filter nosuch=1", 125, "invalid volume filter"),
    ("run --rm --volume-driver nosuch -v x:/x busybox true", 125, "rl runs no volume plugins"),
    ("run --rm --volumes-from nosuch busybox true", 125, 'looking up container "nosuch" for volumes-from'),
    ("run --rm --volumes-from x:bogus busybox true", 125, 'invalid option "bogus"'),
]


def test_bad_input(rl: Rl) -> None:
    walk(rl, [("volume create two1", 0, "two1"), ("volume create two2", 0, "two2")])
    for words, code, part in BAD:
        done = rl(*shlex.split(words))
        assert (done.returncode, part in done.stderr) == (code, True), (words, done)
    assert volumes(rl) == ["two1", "two2"]


def test_in_use(rl: Rl) -> None:
    container = rl.ok("create", "--network=none", "--name", "c", "-v", "used:/d", "busybox", "true")
    assert volumes(rl, "--filter", "dangling=false") == ["used"], "made with the container"
    for words in (("rm", "used"), ("rename", "used", "x")):
        done = rl("volume", *words)
        message = f"volume used is being used by the following container(s): {container}: volume is being used"
        assert (done.returncode == 2 or words[0] == "rename") and message in done.stderr
    done = rl("volume", "rm", "used", "nosuch")
    assert done.returncode == 2
    assert rl.ok("volume", "prune", "--force") == ""
    assert rl.ok("volume", "rm", "--force", "--time", "0", "used") == "used"
    assert rl.containers() == []
    assert rl.ok("volume", "rm", "--force", "used") == ""


def test_prune_asks(rl: Rl) -> None:
    for name in ("a", "b"):
        rl.ok("volume", "create", "--label", f"is={name}", name)
    warning = "WARNING! This will remove all volumes not used by at least one container. The following volumes will be removed:\n"
    question = "Are you sure you want to continue? [y/N] "
    assert rl("volume", "prune", input="").stderr.startswith("Error: EOF")
    assert rl.ok("volume", "prune", "--filter", "label=is=b", input="n\n") == f"{warning}b\n{question}"
    assert rl.ok("volume", "prune", "--filter", "label=is=b", input="y\n") == f"{warning}b\n{question}b"
    assert rl.ok("volume", "prune", "-f", "--filter", "label!=is") == ""
    assert rl.ok("volume", "prune", "-f") == "a"
    assert rl.ok("volume", "prune") == f"{warning}No dangling volumes found"


def test_file_systems(rl: Rl) -> None:
    """tmpfs: one for all containers that run; bind: the host's directory; overlay; owner and copy options."""
    shared = rl.user.home / "shared"
    shared.mkdir(exist_ok=True)
    os.chown(shared, rl.user.uid, rl.user.gid)
    for name in ("low", "lower"):
        (shared / name).mkdir(exist_ok=True)
    (shared / "low/f").write_text("low\n")
    rl.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=1777,noexec", "mem")
    rl.ok("volume", "create", "-o", "type=none", "-o", f"device={shared}", "-o", "o=bind,ro", "host")
    rl.ok("volume", "create", "-o", "type=overlay", "-o", f"o=lowerdir={shared}/low:{shared}/lower", "over")
    rl.ok("run", "-d", "--network=none", "--name", "first", "-v", "mem:/d", "busybox", "sh", "-c", "echo 1 >/d/1; sleep 99")
    assert inspect(rl, "mem")["MountCount"] == 1
    seen = rl.ok(*RUN, "-v", "mem:/d", "busybox", "sh", "-c", "cat /d/1; touch /d/2; df -k /d | awk 'END {print $2}'; stat -c %a /d")
    assert seen.split() == ["1", "1024", "1777"]
    assert rl.ok("exec", "first", "ls", "/d").split() == ["1", "2"]
    export = rl.user.run("sh", "-c", "rl volume export mem | tar -t")
    assert export.stdout.split() == ["1", "2"]
    rl.ok("rm", "-f", "-t", "0", "first")
    assert rl.ok(*RUN, "-v", "mem:/d", "busybox", "ls", "/d") == "", "it ended with its last container"
    assert inspect(rl, "mem")["MountCount"] == 0
    assert "would be gone at once" in rl("volume", "import", "mem", "-", input="x").stderr
    refused = rl(*RUN, "-v", "host:/d", "busybox", "touch", "/d/x")
    assert (refused.returncode, "Read-only" in refused.stderr) == (1, True)
    assert rl.ok(*RUN, "-v", "over:/d", "busybox", "cat", "/d/f") == "low"
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(rl.data / "volumes") in line]


def test_mounted_by_hand(rl: Rl) -> None:
    rl.ok("volume", "create", "-o", "type=tmpfs", "mem")
    text = rl.ok("unshare", "sh", "-c", "d=$(rl volume mount mem) && touch $d/x && grep -c $d /proc/self/mountinfo && ls $d; "
                 "rl volume umount mem; ls $d; rl volume mount nosuch; echo $?")  # fmt: skip
    assert text.split() == ["1", "x", "mem", "125"]


@pytest.mark.parametrize("driver", ["overlay", "fuse-overlayfs", "copy"])
def test_copy_up(rl: Rl, driver: str) -> None:
    """Content, owner and mode come from the image once; options say otherwise."""
    one = Rl(rl.user, flags=["--storage-driver", driver])
    look = ("busybox", "sh", "-c", "stat -c '%u:%g %a' /home/app; ls /etc | wc -l; touch /home/app/mine 2>/dev/null; ls /home/app")
    assert one.ok(*RUN, "-v", "h:/home/app", "-v", "e:/etc:ro", *look).split() == ["1000:1000", "755", "3", "mine"]
    rl.user.run("rl", *RUN, "-v", "e:/x", "busybox", "rm", "/x/group", "/x/passwd", "/x/not-executable", check=True)
    assert one.ok(*RUN, "-v", "e:/etc", "busybox", "ls", "/etc") == "", "not a second time"
    assert one.ok(*RUN, "-u", "1000:2000", "-v", "own:/new", "busybox", "stat", "-c", "%u:%g", "/new") == "1000:2000"
    rl.ok("volume", "create", "--uid", "5", "--gid", "6", "five")
    assert one.ok(*RUN, "-v", "five:/home/app", "busybox", "stat", "-c", "%u:%g", "/home/app") == "5:6"
    assert one.ok(*RUN, "-v", "u:/home:U", "-u", "77", "busybox", "stat", "-c", "%u", "/home", "/home/app") == "77\n77"


def test_nocopy(rl: Rl) -> None:
    rl.ok("volume", "create", "-o", "nocopy", "never")
    for name, option in (("never", ""), ("once", ":nocopy")):
        assert rl.ok(*RUN, "-v", f"{name}:/home{option}", "busybox", "ls", "/home") == ""
    assert "NeedsCopyUp" not in inspect(rl, "never")


def test_anonymous(rl: Rl) -> None:
    """Gone with --rm and rm -v, kept otherwise, and never taken from another container that uses it."""
    rl.ok(*RUN, "-v", "/anon", "busybox", "touch", "/anon/x")
    assert volumes(rl) == []
    rl.ok("run", "--network=none", "--name", "a", "-v", "/anon", "busybox", "touch", "/anon/x")
    (name,) = volumes(rl, "--filter", "anonymous=true")
    assert inspect(rl, name)["Anonymous"] is True
    assert rl.ok(*RUN, "--volumes-from", "a", "busybox", "ls", "/anon") == "x"
    assert rl(*RUN, "--volumes-from", "a:ro", "busybox", "touch", "/anon/y").returncode == 1
    assert rl.ok(*RUN, "--volumes-from", "a:z", "-v", "other:/anon", "busybox", "ls", "/anon") == "", "own flags come first"
    rl.ok("create", "--network=none", "--name", "b", "--volumes-from", "a:rw", "busybox", "true")
    rl.ok("container", "clone", "b", "b2")
    assert rl.ok("start", "-a", "b2") == ""
    rl.ok("rm", "-v", "a", "b2")
    assert volumes(rl, "--filter", "anonymous=true") == [name]
    rl.ok("rm", "b")
    assert volumes(rl, "--filter", "anonymous=true") == [name], "without -v it stays"
    rl.ok("volume", "rm", name)


def test_lent_by_a_container_that_removes_itself(rl: Rl) -> None:
    rl.ok("run", "-d", "--rm", "--network=none", "--name", "lender", "-v", "/anon", "busybox", "sh", "-c", "touch /anon/x; sleep 99")
    rl.ok("create", "--network=none", "--rm", "--name", "borrower", "--volumes-from", "lender", "busybox", "ls", "/anon")
    eventually(lambda: rl("exec", "lender", "ls", "/anon").stdout)
    rl.ok("stop", "-t", "0", "lender")
    assert len(volumes(rl)) == 1
    assert rl.ok("start", "-a", "borrower") == "x"
    eventually(lambda: not volumes(rl))


def test_image_volume(rl: Rl) -> None:
    archive = rl.user.home / "root.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("v", "v/file"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name == "v" else tarfile.REGTYPE
            member.mode = 0o755
            tar.addfile(member)
        tar.add("/bin/busybox", "bin/busybox", recursive=False)
    archive.chmod(0o644)
    rl.ok("import", "-q", "--change", "VOLUME /v", str(archive), "withvolume:1")
    for mode, kind in (("anonymous", 1), ("bind", 1), ("tmpfs", 1), ("ignore", 0)):
        script = "busybox grep -c ' /v ' /proc/self/mountinfo; busybox ls /v"
        done = rl("run", "--network=none", "--name", "x", "--image-volume", mode, "withvolume:1", "/bin/busybox", "sh", "-c",
                  f"PATH=/bin; {script}")  # fmt: skip
        assert done.stdout.split() == [str(kind), "file"], (mode, done)
        assert len(volumes(rl)) == (mode in ("anonymous", "bind"))
        rl.ok("rm", "-v", "x")
    rl.ok("rmi", "withvolume:1")


def test_export_import(rl: Rl) -> None:
    """What a container made comes back as it was: owners, modes, links, attributes, holes, times."""
    script = (
        "cd /d; echo a >a; ln a hard; ln -s a soft; mkfifo pipe; mkdir -m 700 sub; chown 5:6 sub; chmod 4711 a; mkdir -p " + "long/" * 40
        + "; echo deep > " + "long/" * 40 + "file; dd if=/dev/zero of=sparse bs=1 count=1 seek=9000000 2>/dev/null; "
        "touch -d @1234567890 a; echo x > .wh.plain"
    )
    rl.ok(*RUN, "-v", "from:/d", "busybox", "sh", "-c", script)
    rl.ok("volume", "export", "from", "-o", "v.tar")
    rl.user.run("sh", "-c", "gzip -kf v.tar && xz -kf v.tar", check=True)
    look = "cd /d; find . | sort | xargs stat -c '%n %F %a %u:%g %h %Y' | grep -v '^. '; cat a; cat " + "long/" * 40 + "file; du -k sparse"
    seen = rl.ok(*RUN, "-v", "from:/d", "busybox", "sh", "-c", look)
    assert ".wh.plain regular file" in seen and "4711 0:0 2 1234567890" in seen and int(seen.split()[-2]) < 100
    for name, source in (("to1", "v.tar"), ("to2", "v.tar.gz"), ("to3", "v.tar.xz")):
        rl.ok("volume", "create", name)
        rl.ok("volume", "import", name, source)
        assert rl.ok(*RUN, "-v", f"{name}:/d", "busybox", "sh", "-c", look) == seen
    rl.user.run("sh", "-c", "rl volume export from | rl volume import to1 -", check=True)
    rl.ok(*RUN, "-v", "to1:/d", "busybox", "sh", "-c", "echo mine >/d/mine; echo changed >/d/a")
    rl.user.run("sh", "-c", "rl volume import to1 < v.tar", check=True)
    assert rl.ok(*RUN, "-v", "to1:/d", "busybox", "cat", "/d/mine", "/d/a") == "mine\na", "merged, the archive's word counts"
    cut = rl.user.run("sh", "-c", "head -c 300 v.tar.gz | rl volume import to2 -")
    assert cut.returncode == 125 and "Error" in cut.stderr
    terminal = rl.user.run("script", "-qec", "rl volume export from", "/dev/null")
    assert "cannot write to terminal" in terminal.stdout
    assert volumes(rl) == ["from", "to1", "to2", "to3"]


def test_hostile_archive(rl: Rl) -> None:
    """Nothing of an archive gets out of the volume."""
    for name, link in (("../out", ""), ("link", "/etc"), ("link/inner", "")):
        archive = rl.user.home / "bad.tar"
        with tarfile.open(archive, "a" if archive.exists() and name.startswith("link/") else "w") as tar:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
        archive.chmod(0o644)
        rl.ok("volume", "create", "--ignore", "target")
        done = rl("volume", "import", "target", str(archive))
        if name == "../out":
            assert done.returncode == 125 and "outside" in done.stderr
    assert not Path("/etc/inner").exists() and not (rl.data / "volumes/target/out").exists()


def test_subpath(rl: Rl) -> None:
    rl.ok(*RUN, "-v", "v:/d", "busybox", "sh", "-c", "mkdir -p /d/a/b; echo x >/d/a/b/f; ln -s /etc /d/out; ln -s a/b /d/in")
    for path, code, text in (("a/b", 0, "f"), ("in", 0, "f"), ("a/b/f", 0, "/m"), ("nosuch", 125, ""), ("out", 125, "")):
        done = rl(*RUN, "--mount", f"type=volume,source=v,destination=/m,subpath={path}", "busybox", "ls", "/m")
        assert (done.returncode, done.stdout.strip()) == (code, text), (path, done)
    rl.ok(*RUN, "--mount", "type=volume,src=made,dst=/m,volume-opt=type=tmpfs,volume-opt=o=size=1m,volume-label=k=v", "busybox", "true")
    made = inspect(rl, "made")
    assert (made["Labels"], made["Options"]) == ({"k": "v"}, {"SIZE": "1048576", "o": "size=1m", "type": "tmpfs"})


def test_two_creators_of_one_name(rl: Rl) -> None:
    processes = [rl.user.popen("rl", "volume", "create", "race", stdout=-1, stderr=-1) for _ in range(8)]
    codes = [process.wait(30) for process in processes]
    for process in processes:
        process.communicate()
    assert sorted(codes) == [0] + [125] * 7
    assert inspect(rl, "race")["Name"] == "race"


def test_killed(rl: Rl) -> None:
    """SIGKILL at any moment of create, import and rm: a volume is whole or it is not there, and nothing is left."""
    archive = rl.user.home / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(400):
            tar.addfile(tarfile.TarInfo(f"file{number}"))
    archive.chmod(0o644)
    for number in range(6):
        delay = 0.02 + number * 0.02
        rl.ok("volume", "create", "--ignore", "into")
        for words in (["create", f"k{number}"], ["import", "into", str(archive)], ["rm", "into"]):
            process = rl.user.popen("rl", "volume", *words, stdout=-3, stderr=-3, start_new_session=True)
            time.sleep(delay)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            found = {path.name for path in (rl.data / "volumes").iterdir() if path.name[0] != "."}
            assert all((rl.data / "volumes" / name / "volume.json").exists() for name in found)
            if "into" in found:
                data = rl.user.run("rl", "unshare", "ls", str(rl.data / "volumes/into/_data"), check=True).stdout.split()
                assert len(data) in (0, 400), "all of it or nothing"
    rl.ok("rm", "--all", "--force")  # sweeps
    assert [name for name in os.listdir(rl.data / "volumes") if name[0] == "."] == []
    rl.ok("volume", "rm", "--all")
    assert os.listdir(rl.data / "trash") == []
