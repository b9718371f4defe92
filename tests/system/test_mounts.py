"""What is mounted into containers: every kind of --mount, every option of -v; owners that fit, and files taken back."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from support import images
from system.conftest import Rl

RUN = ("run", "--rm", "--network=none")


@pytest.fixture
def place(rl: Rl) -> Path:
    """A directory of the user's: src/{file,sub/low,link}, up, work, lib{a,b}, closed/busybox."""
    base = rl.user.home / "mounts"
    rl.user.run("rl", "unshare", "rm", "-rf", str(base), check=True)
    script = (f"mkdir -p {base}/src/sub {base}/up {base}/work {base}/closed/app; cd {base}; echo lower >src/file; echo low >src/sub/low;"
              "ln -s file src/link; echo a >liba; echo b >libb; cp $(command -v busybox) closed/busybox; chmod 700 closed")
    rl.user.run("sh", "-c", script, check=True)
    return base


def tree(directory: Path) -> dict[str, tuple[int, int, str]]:
    """What there is: owner, group, content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_text() if path.is_file() and not path.is_symlink() else ""
        found[str(path.relative_to(directory))] = (status.st_uid, status.st_gid, content)
    return found


OVERLAYS = [
    ("-v {0}/src:/d:O", "echo new >/d/new; echo more >>/d/file; rm -r /d/sub; cat /d/file", "lower\nmore"),
    ("-v {0}/src:/d:O --userns=keep-id", "echo new >/d/new && stat -c %u:%g /d/new /d/file", "{1}:{2}\n{1}:{2}"),
    ("-v {0}/src:/d:O,U --user 1000:1000", "echo new >/d/new && stat -c %u:%g /d/file /d/sub/low", "1000:1000\n1000:1000"),
    ("--mount type=bind,src={0}/src,dst=/d,O", "echo new >/d/new && ls /d | wc -l", "4"),
]


@pytest.mark.parametrize(("flags", "command", "output"), OVERLAYS)
def test_an_overlay_leaves_its_source_alone(rl: Rl, place: Path, flags: str, command: str, output: str) -> None:
    before = tree(place / "src")
    words = flags.format(place).split()
    assert rl.ok(*RUN, *words, "busybox", "sh", "-c", command) == output.format("", rl.user.uid, rl.user.gid)
    assert tree(place / "src") == before


def test_an_overlay_forgets_or_keeps(rl: Rl, place: Path) -> None:
    rl.ok("create", "--name", "o", "--network=none", "-v", f"{place}/src:/d:O", "busybox", "sh", "-c", "ls /d; echo x >/d/new")
    assert rl.ok("inspect", "--format", "{{.HostConfig.Binds}}", "o") == f"[{place}/src:/d:rw,rprivate,rbind,O]"
    assert rl.ok("start", "-a", "o").split() == ["file", "link", "sub"]
    assert rl.ok("start", "-a", "o").split() == ["file", "link", "sub"]
    own = f"{place}/src:/d:O,upperdir={place}/up,workdir={place}/work"
    rl.ok(*RUN, "-v", own, "busybox", "sh", "-c", "echo x >/d/new")
    assert rl.ok(*RUN, "-v", own, "busybox", "ls", "/d").split() == ["file", "link", "new", "sub"]
    assert (place / "up/new").read_text() == "x\n" and not (place / "src/new").exists()
    rl.ok(*RUN, "-v", "named:/d", "busybox", "touch", "/d/kept")
    assert rl.ok(*RUN, "-v", "named:/d:O", "busybox", "sh", "-c", "touch /d/lost; ls /d").split() == ["kept", "lost"]
    assert rl.ok(*RUN, "-v", "named:/d", "busybox", "ls", "/d") == "kept"


MOUNTS = [
    ("--mount type=image,src=busybox,dst=/i", "touch /i/x 2>/dev/null || ls /i", "bin\netc\nhome\nroot\ntmp"),
    ("--mount type=image,src=busybox,dst=/i,rw=true", "touch /i/x && test ! -e /x && echo apart", "apart"),
    ("--mount type=image,src=busybox,dst=/i,rw=true --userns=keep-id:uid=1000,gid=1000", "touch /i/home/app/mine && stat -c %u /i/bin/sh", "0"),
    ("--mount type=image,src=busybox,dst=/i,subpath=etc", "ls /i", "group\nnot-executable\npasswd"),
    ("--mount type=image,src=busybox,dst=/i,image-subpath=etc/group", "head -1 /i", "root:x:0:"),
    ("--mount type=glob,src={0}/lib*,dst=/usr/lib,ro", "cat /usr/lib/lib?; echo >/usr/lib/liba 2>/dev/null || echo ro", "a\nb\nro"),
    ("--mount type=glob,src={0}/lib*", "cat {0}/libb", "b"),
    ("--mount type=devpts,dst=/dev/pts,uid=0,gid=5,mode=600,max=5", "grep -c mode=600.*max=5 /proc/mounts", "1"),
    ("--mount type=ramfs,dst=/r,tmpfs-mode=700,U=true --user 1000:1000", "touch /r/x && stat -c %u:%g:%a /r && grep -c '^ramfs /r' /proc/mounts", "1000:1000:700\n1"),
    ("--mount type=ramfs,dst=/etc", "test -s /etc/passwd && echo copied", "copied"),
    ("--mount type=tmpfs,dst=/etc,notmpcopyup", "test -e /etc/passwd || echo empty", "empty"),
    ("--mount type=tmpfs,dst=/t,tmpfs-size=1m,noexec,ro=false", "cp /bin/busybox /t/x 2>/dev/null || echo full", "full"),
    ("--tmpfs /t:size=3m,mode=0700,uid=5,gid=6,noexec", "cp /bin/busybox /t/x; chmod +x /t/x; /t/x true 2>/dev/null || stat -c %u:%g:%a /t", "5:6:700"),
    ("--tmpfs /t:U --user 1000", "touch /t/x && echo mine", "mine"),
    ("--mount type=bind,src={0}/src/link,dst=/l,no-dereference", "readlink /l", "file"),
    ("--mount type=bind,src={0}/src,dst=/d,bind-nonrecursive,bind-propagation=rslave,relabel=shared,ro", "touch /d/x 2>/dev/null || echo ro", "ro"),
    ("-v {0}/src:/d:ro,z,exec,nosuid,nodev,private,cached", "touch /d/x 2>/dev/null || echo ro", "ro"),
    ("-v {0}/src:/d:rro,Z,bind", "touch /d/x 2>/dev/null || echo ro", "ro"),
    ("-v {0}/closed:/d:noexec,rslave", "/d/busybox true 2>/dev/null || echo noexec", "noexec"),
    ("-v {0}/src:/d:rw,suid,dev,rbind", "grep ' /d ' /proc/mounts | grep -c -E 'nosuid|nodev'", "0"),
    ("--mount type=volume,src=opts,dst=/d,volume-label=a=b,volume-nocopy", "touch /d/x && echo volume", "volume"),
    ("--mount type=volume,src=tv,dst=/d,volume-opt=type=tmpfs,volume-opt=device=tmpfs,idmap=uids=0-5-10;gids=0-6-10", "stat -c %u:%g /d", "5:6"),
    ("--mount type=volume,dst=/d", "touch /d/x && echo anonymous", "anonymous"),
    ("--device /dev/fuse", "test -c /dev/fuse && echo device", "device"),
]


@pytest.mark.parametrize(("flags", "command", "output"), MOUNTS)
def test_mounts(rl: Rl, place: Path, flags: str, command: str, output: str) -> None:
    words = flags.format(place).split()
    done = rl(*RUN, *words, "busybox", "sh", "-c", command.format(place))
    assert done.stdout.strip() == output, done.stderr


def test_parts_of_a_volume(rl: Rl, place: Path) -> None:
    rl.ok(*RUN, "-v", "parts:/d", "busybox", "sh", "-c", "mkdir /d/a; echo x >/d/a/f; ln -s /etc /d/host; ln -s a /d/inside")
    assert rl.ok(*RUN, "--mount", "type=volume,src=parts,dst=/d,subpath=a/f", "busybox", "cat", "/d") == "x"
    assert rl.ok(*RUN, "--mount", "type=volume,src=parts,dst=/d,volume-subpath=inside", "busybox", "ls", "/d") == "f"
    done = rl(*RUN, "--mount", "type=volume,src=parts,dst=/d,subpath=host", "busybox", "ls", "/d")
    assert done.returncode == 125 and "subpath 'host'" in done.stderr  # never the host's /etc


def test_an_image_that_is_mounted_outlives_its_name(rl: Rl, tmp_path: Path) -> None:
    archive = images.busybox(Path(rl.user.runtime_dir), tag="other:latest", config={"Cmd": ["true"]})
    archive.chmod(0o644)
    rl.ok("load", "-q", "-i", archive)
    rl.ok("create", "--name", "m", "--network=none", "--mount", "type=image,src=other,dst=/i", "busybox", "ls", "/i/etc")
    rl.ok("rmi", "-f", "other")
    assert "passwd" in rl.ok("start", "-a", "m")


REFUSED = [
    ("-v {0}/src:/d:ro,rw", "can only specify 1 'rw' or 'ro' option", ""),
    ("-v {0}/src:/d:O,ro", "exclude each other", ""),
    ("-v {0}/src:/d:O,upperdir={0}/up", "both upperdir and workdir", ""),
    ("-v {0}/src:/d:O,upperdir={0}/up,workdir={0}/up/work", "no such directory", "mkdir"),
    ("-v {0}/src/file:/d:O", "O is for a directory", ""),
    ("-v {0}/src:/d:frob", 'invalid option type "frob"', "known"),
    ("-v {0}/src:/d:idmap", "no user namespace of its own", "--userns=keep-id"),
    ("-v {0}/src:/d:idmap --userns=keep-id", "map ids: Operation not permitted", "only real root"),
    ("-v {0}/src:/d:idmap=uids=0-0-1;gids=0-0-1", "Operation not permitted", "only real root"),
    ("-v {0}/src:/d -v {0}/up:/d", "duplicate mount destination", ""),
    ("-v /root/x:/d", "/root belongs to root", "chmod o+x /root"),
    ("-v /root:/d:O", "read /root: Permission denied", "of your own"),
    ("-v /etc:/d:U", "change the owner of /etc: Operation not permitted", "subordinate ids"),
    ("--mount type=image,src=no/such:x,dst=/d --pull=never", "image not known", ""),
    ("--mount type=image,src=busybox,dst=/d,subpath=no/such", "subpath 'no/such'", "before the container starts"),
    ("--mount type=glob,src={0}/none*,dst=/d", "no file paths matching glob", ""),
    ("--mount type=artifact,src=a,dst=/d", "artifact", "bind-mount"),
    ("--mount type=npipe,src=a,dst=/d", "npipe", "type=bind"),
    ("--mount type=cluster,src=a,dst=/d", "cluster", "type=volume"),
    ("--mount type=odd,dst=/d", 'invalid filesystem type "odd"', "glob"),
    ("--mount type=ramfs,dst=/d,size=1m", "ramfs cannot have size", "tmpfs"),
    ("--mount type=tmpfs,dst=/d,noswap", "swap", "leave noswap out"),
    ("--mount type=devpts,dst=/d,mode=9", "not an octal mode", ""),
    ("--mount type=bind,src={0}/src,dst=/d,frob=1", "'frob'", ""),
    ("--device /dev/no-such", "no such file or directory", ""),
    ("--device /dev/vda", "permission denied: /dev/vda belongs to root", "usermod"),
]


@pytest.mark.parametrize(("flags", "says", "hint"), REFUSED)
def test_refused(rl: Rl, place: Path, flags: str, says: str, hint: str) -> None:
    if "/dev/vda" in flags and not os.path.exists("/dev/vda"):
        pytest.skip("no /dev/vda")
    before = tree(place / "src")
    done = rl(*RUN, *flags.format(place).split(), "busybox", "true")
    assert done.returncode == 125 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and says in errors[0], done.stderr
    assert hint in done.stderr
    assert rl.containers() == [] and tree(place / "src") == before


def test_a_denied_start_names_part_owner_and_flag(rl: Rl, place: Path) -> None:
    done = rl(*RUN, "-v", f"{place}:/d", "--user", "1000:1000", "busybox", "/d/closed/busybox")
    assert done.returncode == 126
    assert f"/d/closed ({place}/closed on the host) belongs to uid 0 of the container ({rl.user.name} (uid {rl.user.uid})" in done.stderr
    assert "mode 0700, and the command runs as uid 1000" in done.stderr
    hint = next(line for line in done.stderr.splitlines() if line.startswith("hint: "))
    assert "--userns=keep-id:uid=1000,gid=1000" in hint and f"chmod o+x {place}/closed" in hint and "option U" in hint
    for advice in (["--userns=keep-id:uid=1000,gid=1000"], ["-v", f"{place}/closed:/d/closed:U"]):
        rl.ok(*RUN, "-v", f"{place}:/d", "--user", "1000:1000", *advice, "busybox", "/d/closed/busybox", "true")
    rl.ok("own", str(place))
    (place / "closed/busybox").chmod(0o644)
    done = rl(*RUN, "-v", f"{place}:/d", "busybox", "/d/closed/busybox")
    assert done.returncode == 126 and f"chmod +x {place}/closed/busybox" in done.stderr


def test_a_private_home_is_no_obstacle(rl: Rl, place: Path) -> None:
    rl.user.home.chmod(0o700)
    try:
        assert rl.ok(*RUN, "--userns=keep-id", "-v", f"{place}/src:/d", "busybox", "sh", "-c", "touch /d/n; stat -c %u /d/n") == str(rl.user.uid)
        assert (place / "src/n").stat().st_uid == rl.user.uid and rl.user.home.stat().st_mode & 0o777 == 0o700
    finally:
        rl.user.home.chmod(0o755)


# keep-id and its kind


@pytest.mark.parametrize("driver", ["overlay", "fuse-overlayfs", "copy"])
def test_owners_in_a_user_namespace_of_its_own(rl: Rl, driver: str) -> None:
    script = "stat -c %u:%g /bin/busybox /home/app; test -s /etc/passwd && echo readable"
    for mode in ("keep-id", "keep-id:uid=1000,gid=1000", "nomap", "auto:size=2000"):
        done = rl("--storage-driver", driver, *RUN, f"--userns={mode}", "busybox", "sh", "-c", script)
        assert done.stdout.split() == ["0:0", "1000:1000", "readable"], (mode, done.stderr)
    assert rl.ok("--storage-driver", driver, *RUN, "--userns=keep-id:uid=1000,gid=1000", "busybox", "sh", "-c",
                 "touch /home/app/mine && stat -c %U /home/app/mine") == "app"


def test_keep_id_copies_no_data_and_leaves_nothing(rl: Rl, tmp_path: Path) -> None:
    archive = images.busybox(Path(rl.user.runtime_dir), tag="kept:latest", config={"Cmd": ["false"]})
    archive.chmod(0o644)
    rl.ok("load", "-q", "-i", archive)
    rl.ok(*RUN, "--userns=keep-id", "kept", "true")
    mapped = rl.data / "mapped"
    if not mapped.exists():
        pytest.skip("the kernel's overlay has no data-only layers in a user namespace: Linux 6.16")
    rl.ok("pull", "-q", "--policy=never", "--userns=nomap", "kept")
    done = rl("pull", "-q", "--policy=never", "--userns=odd", "kept")
    assert done.returncode == 125 and "'odd' is not a mode" in done.stderr
    image_id = rl.ok("image", "inspect", "--format", "{{.Id}}", "kept").removeprefix("sha256:")
    assert os.lstat(mapped / image_id / "shift1/bin/busybox").st_blocks <= 8
    rl.ok("rmi", "kept")
    assert not (mapped / image_id).exists() and list((rl.data / "trash").iterdir()) == []


# files that containers left


def test_own_takes_back_what_a_container_left(rl: Rl, place: Path) -> None:
    left = place / "left"
    rl.user.run("mkdir", str(left), check=True)
    rl.ok(*RUN, "-v", f"{left}:/d", "busybox", "sh", "-c",
          "mkdir -p /d/a/b; echo x >/d/a/b/f; chown -R 7:8 /d/a; chmod 0 /d/a/b/f; chmod 700 /d/a; ln -s /etc/passwd /d/l; chown -h 4:4 /d/l; "
          "cp /bin/busybox /d/suid; chown 5:5 /d/suid; chmod 4755 /d/suid; touch '/d/e\033[1m'; chown 65534:65534 /d/e*")
    assert rl.user.run("rm", "-r", f"{left}/a").returncode != 0
    dry = rl.ok("own", "--dry-run", str(left))
    first = rl.user.subids()[0][0]
    assert f"would change ownership of '{left}/a/b/f' from {first + 6}:{first + 7} to {rl.user.name}" in dry
    assert len(dry.splitlines()) == 6 and "\033" not in dry
    verbose = rl.ok("own", "-v", str(left / "l"))
    assert verbose.startswith(f"changed ownership of '{left}/l' from {first + 3}:{first + 3}")
    assert os.stat("/etc/passwd").st_uid == 0
    assert rl.ok("own", "--cross-mounts", str(left)) == ""
    assert rl.ok("own", "-n", str(left)) == ""
    assert not (left / "suid").stat().st_mode & 0o4000  # a set-user-id program of somebody else's does not become one of mine
    rl.user.run("rm", "-r", str(left), check=True)


@pytest.mark.parametrize(
    ("path", "says", "hint"),
    [
        ("no-such", "own no-such: no such file or directory", ""),
        ("/etc", "/etc: it belongs to another user of the host", "only its owner"),
        ("/root/x", "/root belongs to", "chmod o+x /root"),
        ("{0}/layers", "it is storage of rl", "rl rmi"),
    ],
)
def test_own_refuses(rl: Rl, path: str, says: str, hint: str) -> None:
    done = rl("own", path.format(rl.data))
    assert done.returncode == 125 and done.stderr.count("Error: ") == 1, done.stderr
    assert says in done.stderr and hint in done.stderr


def test_own_leaves_storage_alone(rl: Rl, place: Path) -> None:
    rl.ok(*RUN, "--userns=keep-id", "busybox", "true")
    rl.ok("own", str(rl.data.parent))
    assert rl.ok(*RUN, "--userns=keep-id", "busybox", "stat", "-c", "%u", "/home/app") == "1000"


UNSHARE = [
    ("--rootless-netns true", 125, "no network namespace"), ("--foo", 125, "unknown flag"), ("/etc", 126, "Permission denied"),
    ("no-such", 127, "No such file"), ("sh -c 'exit 7'", 7, ""),
]


@pytest.mark.parametrize(("words", "code", "says"), UNSHARE)
def test_unshare(rl: Rl, words: str, code: int, says: str) -> None:
    done = rl("unshare", *shlex.split(words))
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_unshare_is_root_with_the_files_of_containers(rl: Rl) -> None:
    assert rl.ok("unshare", "sh", "-c", "id -u; echo $CONTAINERS_GRAPHROOT; echo $CONTAINERS_RUNROOT").split() == ["0", str(rl.data), str(rl.run_dir)]
