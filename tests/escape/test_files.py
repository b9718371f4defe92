"""Ways out through files: working directory, mount targets, what /proc and /sys hide, setuid files, the engine's own."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from escape.conftest import Install, Installation
from support import images
from system.conftest import Rl

#: Take out that paths are resolved inside the root: what a runtime that works with strings does.
BY_STRING = {"rl/runtime/rootpath.py": [
    ("return fs.openat2(root, path, flags, 0, _RESOLVE | extra)", 'return fs.openat2(root, path.lstrip("/") or ".", flags)'),
]}
HOST_MARK = "of the host"


@pytest.fixture
def mark(rl: Rl) -> str:
    """A file in the user's home that no container has."""
    path = rl.user.home / "mark"
    path.write_text(HOST_MARK)
    path.chmod(0o644)
    return str(path)


def _load(rl: Rl, tmp: Path, name: str, config: dict[str, object], *members: tuple[str, bytes, str]) -> None:
    """Image *name*: the attack image's base with further members (path, type, link)."""
    layer = tmp / f"{name}.tar"
    with tarfile.open(layer, "w") as tar:
        for path, kind, link in members:
            images.add(tar, path, kind=kind, link=link, mode=0o755)
    path = images.archive_of(tmp / f"{name}-image.tar", [images.busybox_layer(tmp / "base.tar"), layer], config, f"{name}:latest")
    rl.ok("load", "-q", "-i", _readable(path))


def _readable(path: Path) -> Path:
    """pytest's directories are root's: put it where users may read it."""
    target = Path("/var/tmp") / f"rl-escape-{os.getpid()}-{path.name}"
    target.write_bytes(path.read_bytes())
    target.chmod(0o644)
    return target


@pytest.fixture(autouse=True)
def _no_archives_left() -> object:
    yield
    for path in Path("/var/tmp").glob(f"rl-escape-{os.getpid()}-*"):
        path.unlink()


# CVE-2024-21626: a working directory that is a descriptor of the runtime's, outside of the container's root

CLIMB = "cat ../../../../../../../..{mark} ..{mark} ./{mark} 2>/dev/null; true"


@pytest.mark.parametrize("way", ["run", "exec", "link", "exec link"])
def test_working_directory_leak(rl: Rl, mark: str, way: str) -> None:
    """Whatever is open in the runtime or its caller, no number leads out."""
    if "exec" in way:
        rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    template = "/evil/cwd{}" if "link" in way else "/proc/self/fd/{}"
    start = "rl exec -w {path} box" if "exec" in way else "rl run --rm --network=none -w {path} attack"
    inherited = " ".join(f"{number}</" for number in range(3, 10))  # of the caller, without close-on-exec
    for number in range(3, 16):
        command = f"exec {inherited}; {start.format(path=template.format(number))} sh -c '{CLIMB.format(mark=mark)}'"
        done = rl.user.run("bash", "-c", command)
        assert HOST_MARK not in done.stdout, (number, done.stdout)
        assert done.returncode in (0, 125, 127), (number, done.stderr)


def test_working_directory_of_an_image(rl: Rl, mark: str, tmp_path: Path) -> None:
    for number in (3, 7):
        _load(rl, tmp_path, f"cwd{number}", {"WorkingDir": f"/proc/self/fd/{number}", "Cmd": ["sh"]})
        done = rl("run", "--rm", "--network=none", f"cwd{number}", "sh", "-c", CLIMB.format(mark=mark))
        assert HOST_MARK not in done.stdout


def test_control_a_handed_over_directory_leads_out_but_not_as_working_directory(rl: Rl, mark: str) -> None:
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    inside = rl.user.run("bash", "-c", f"exec 3</; rl exec --preserve-fds 1 box cat /proc/self/fd/3{mark}")
    assert inside.stdout == HOST_MARK  # the caller's explicit wish
    done = rl.user.run("bash", "-c", "exec 3</; rl exec --preserve-fds 1 -w /proc/self/fd/3 box pwd")
    assert done.returncode == 125 and "outside of the container's root" in done.stderr


def test_descriptors_of_the_caller_stay_out(rl: Rl) -> None:
    """run, run -d, exec: only 0, 1, 2 (and the listing's own)."""
    hold = "exec 3</ 5</etc/passwd 8</tmp;"
    listing = "attack sh -c 'ls /proc/self/fd; ls /proc/1/fd'"
    wanted = ["0", "1", "2", "3", "0", "1", "2"]
    done = rl.user.run("bash", "-c", f"{hold} rl run --rm --network=none {listing}", check=True)
    assert done.stdout.split()[:5] == wanted[:5] and not {"5", "8"} & set(done.stdout.split())
    rl.user.run("bash", "-c", f"{hold} rl run -d --name box --network=none attack sleep 60", check=True)
    done = rl.user.run("bash", "-c", f"{hold} rl exec box sh -c 'ls /proc/self/fd; ls /proc/1/fd'", check=True)
    assert done.stdout.split() == wanted
    # the control: the shell does hand them on to what it executes
    done = rl.user.run("bash", "-c", f"{hold} ls /proc/self/fd", check=True)
    assert {"5", "8"} <= set(done.stdout.split())


# CVE-2021-30465, CVE-2019-16884: mount targets that are links, or become links

@pytest.mark.parametrize("link", ["/", "/etc", "../../../../../../../..", "/proc/self/root", "/proc/1/root/etc", "HOME"])
def test_mount_target_that_is_a_link(rl: Rl, tmp_path: Path, link: str) -> None:
    target = str(rl.user.home) if link == "HOME" else link
    _load(rl, tmp_path, "links", {"Cmd": ["sh"]}, ("link", tarfile.SYMTYPE, target))
    name = f"rl-escape-{os.getpid()}"
    source = rl.user.home / "source"
    source.mkdir(exist_ok=True)
    os.chown(source, rl.user.uid, rl.user.gid)
    done = rl("run", "--rm", "--network=none", "-v", f"{source}:/link/{name}", "links", "true")
    assert done.returncode in (0, 125), done.stderr
    for place in ("/", "/etc", rl.user.home):
        assert not os.path.lexists(f"{place}/{name}"), place
    assert name not in Path("/proc/self/mountinfo").read_text()


def _race_targets(rl: Rl, rounds: int) -> bool:
    """Containers mount below a directory of a shared volume while another exchanges it with a link; escaped?"""
    bait = rl.user.home / "bait"
    bait.mkdir(exist_ok=True)
    os.chown(bait, rl.user.uid, rl.user.gid)
    rl.ok("run", "-d", "--name", "swapper", "--network=none", "-v", "shared:/vol", "attack", "sh", "-c",
          f"mkdir -p /vol/dir; ln -s {bait} /vol/link; exec attack flip /vol/dir /vol/link 40")
    for number in range(rounds):
        done = rl("run", "--rm", "--network=none", "-v", "shared:/vol", "-v", f"below:/vol/dir/made{number}", "attack", "true")
        assert done.returncode in (0, 125), done.stderr
        if os.listdir(bait):
            break
    escaped = os.listdir(bait)
    rl.clean()
    for name in escaped:
        (bait / name).rmdir()
    bait.rmdir()
    return bool(escaped)


def test_mount_target_race(rl: Rl) -> None:
    assert not _race_targets(rl, 15)


def test_control_mount_target_race_by_string(install: Install) -> None:
    assert _race_targets(install("string", BY_STRING), 60)


# CVE-2018-15664, CVE-2019-14271: a copy that follows the container's links on the host

def _race_copies(rl: Rl, rounds: int) -> bool:
    """Copies into and out of a directory that the container exchanges with a link; did one read or write the host's?"""
    bait = rl.user.home / "bait"
    bait.mkdir(exist_ok=True)
    (bait / "mark").write_text(HOST_MARK)
    subprocess.run(["chown", "-R", f"{rl.user.uid}:{rl.user.gid}", bait], check=True)
    rl.ok("run", "-d", "--name", "swapper", "--network=none", "attack", "sh", "-c",
          f"mkdir -p /srv/dir; echo own >/srv/dir/mark; ln -s {bait} /srv/link; exec attack flip /srv/dir /srv/link 40")
    (rl.user.home / "sent").write_text("sent")
    out = rl.user.home / "out"
    escaped = False
    for number in range(rounds):
        done = rl("cp", rl.user.home / "sent", f"swapper:/srv/dir/made{number}")
        assert done.returncode in (0, 125) and "Traceback" not in done.stderr, done.stderr
        done = rl("cp", "swapper:/srv/dir/mark", out)
        assert done.returncode in (0, 125) and "Traceback" not in done.stderr, done.stderr
        escaped = os.listdir(bait) != ["mark"] or (out.exists() and out.read_text() == HOST_MARK)
        if escaped:
            break
    rl.clean()
    subprocess.run(["rm", "-rf", bait, out], check=True)
    return escaped


def test_copy_race(rl: Rl) -> None:
    assert not _race_copies(rl, 15)


def test_control_copy_race_by_string(install: Install) -> None:
    assert _race_copies(install("string", BY_STRING), 60)


@pytest.mark.parametrize("link", ["/", "/etc", "../../../../../../../../etc", "/proc/self/root/etc", "/proc/1/root/etc"])
def test_copy_through_a_link(rl: Rl, mark: str, link: str) -> None:
    """Links that the container made lead inside of it: into it, out of it, running and not, and in a tar stream."""
    name = f"rl-escape-{os.getpid()}"
    rl.ok("run", "-d", "--name", "links", "--network=none", "attack", "sh", "-c",
          f"ln -s {link} /srv/out; ln -s {mark} /srv/mark; sleep 60")
    (rl.user.home / name).write_text("sent")
    tar = rl.user.home / "linked.tar"
    with tarfile.open(tar, "w") as out:
        images.add(out, "l", kind=tarfile.SYMTYPE, link=link)
        images.add(out, f"l/{name}", b"sent")
    tar.chmod(0o644)
    for _ in range(2):
        for words in (f"cp {name} links:/srv/out/{name}", f"cp {name} links:/srv/out", f"cp links:/srv/mark {name}.read"):
            done = rl(*words.split())
            assert done.returncode in (0, 125) and HOST_MARK not in done.stdout + done.stderr, done.stderr
        done = rl.user.run("sh", "-c", "rl cp - links:/srv <linked.tar; rl cp links:/srv - | grep -c 'of the host'")
        assert done.stdout == "0\n", done.stderr
        for place in ("/", "/etc"):
            assert not os.path.lexists(f"{place}/{name}"), place
        assert not (rl.user.home / f"{name}.read").exists()
        rl.ok("stop", "-t", "0", "links")


# CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: what hides parts of /proc and /sys

def test_masks_do_not_depend_on_the_image(rl: Rl, tmp_path: Path) -> None:
    """An image whose /dev/null, /dev/console and /dev/pts are links to what is to be hidden or protected."""
    _load(
        rl, tmp_path, "masks", {"Cmd": ["sh"]}, ("dev", tarfile.DIRTYPE, ""),
        ("dev/null", tarfile.SYMTYPE, "/proc/sys/kernel/core_pattern"), ("dev/console", tarfile.SYMTYPE, "/proc/sys/kernel/core_pattern"),
        ("dev/pts", tarfile.SYMTYPE, "/proc"), ("dev/ptmx", tarfile.SYMTYPE, "/proc/sys/kernel/core_pattern"),
        ("dev/shm", tarfile.SYMTYPE, "/proc/sys"),
    )
    look = ("for f in /proc/keys /proc/timer_list /dev/null; do stat -c '%F %t:%T' $f; done; wc -c </proc/keys; ls -A /sys/firmware | wc -l;"
            "echo x 2>&1 >/proc/sys/kernel/core_pattern; grep ' /proc/sys ' /proc/self/mountinfo | cut -d' ' -f6")
    for flags in ((), ("-t",)):
        text = rl.ok("run", "--rm", "--network=none", *flags, "masks", "sh", "-c", look)
        lines = [line.strip() for line in text.splitlines()]
        assert lines[:5] == ["character special file 1:3"] * 3 + ["0", "0"], text
        assert lines[-1].startswith("ro,"), text
        assert any("can't create" in line or "Read-only" in line or "denied" in line for line in lines[5:-1]), text
    assert "special" not in rl.ok("run", "--rm", "--network=none", "--security-opt", "unmask=ALL", "masks", "stat", "-c", "%F", "/proc/keys")


@pytest.mark.parametrize("where", ["/proc", "/proc/sys", "/proc/self/attr", "/proc/1", "/proc/sysrq-trigger", "/proc/self/../sys/kernel"])
def test_nothing_is_mounted_over_proc(rl: Rl, tmp_path: Path, where: str) -> None:
    """CVE-2019-16884: also as a VOLUME of the image. A faked /proc would swallow security labels, or lift masks."""
    done = rl("run", "--rm", "--network=none", "-v", f"fake:{where}", "attack", "true")
    assert done.returncode == 125 and "Error" in done.stderr, done
    _load(rl, tmp_path, "volumes", {"Cmd": ["sh"], "Volumes": {where: {}}})
    done = rl("run", "--rm", "--network=none", "volumes", "true")
    assert done.returncode == 125, done


def test_proc_that_is_a_link(rl: Rl, tmp_path: Path) -> None:
    """CVE-2019-19921: an image that lets /proc lead into a volume."""
    _load(rl, tmp_path, "linked", {"Cmd": ["sh"], "Volumes": {"/fake": {}}}, ("proc", tarfile.SYMTYPE, "/fake"))
    done = rl("run", "--rm", "--network=none", "linked", "true")
    assert done.returncode == 125 and "/proc" in done.stderr, done


PROTECTED = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/fs/cgroup/cgroup.procs /sys/power/state /proc/sys/fs/binfmt_misc/register /proc/1/oom_score_adj"


@pytest.mark.parametrize("flags", [(), ("--privileged",), ("--cap-add=all",), ("--pid=host",)])
def test_settings_of_the_host_cannot_be_written(rl: Rl, flags: tuple[str, ...]) -> None:
    script = f"for f in {PROTECTED}; do [ -e $f ] && (echo 1 >>$f) 2>/dev/null && echo $f; done; true"
    written = rl.ok("run", "--rm", "--network=none", *flags, "attack", "sh", "-c", script).split()
    # Its own score may be raised, and --privileged may move itself within its own cgroup namespace.
    assert not set(written) - {"/proc/1/oom_score_adj", "/sys/fs/cgroup/cgroup.procs"}, written


def test_state_of_the_engine_is_not_reachable(rl: Rl) -> None:
    script = "find / -xdev \\( -name state.json -o -name ctr.log -o -name attach -o -name config.json -o -name lock \\) 2>/dev/null; ls -d /proc/1/root/home/* 2>/dev/null"
    text = rl.ok("run", "--rm", "--network=none", "attack", "sh", "-c", script)
    assert text.split() == ["/proc/1/root/home/app"], text  # the image's own
    others = "find /run /var/run /etc /dev -type s 2>/dev/null; true"
    assert rl.ok("run", "--rm", "--network=none", "attack", "sh", "-c", others) == ""


# setuid

def test_setuid_files_give_nothing_on_the_host(rl: Rl) -> None:
    """Made in a bind mount they belong to the user or to a subordinate id, never to the host's root."""
    shared = rl.user.home / "shared"
    shared.mkdir(exist_ok=True)
    os.chown(shared, rl.user.uid, rl.user.gid)
    shared.chmod(0o777)
    script = "cp /bin/attack /b/{0}; chmod 6755 /b/{0}"
    rl.ok("run", "--rm", "--network=none", "-v", f"{shared}:/b", "attack", "sh", "-c", script.format("root"))
    rl.ok("run", "--rm", "--network=none", "-v", f"{shared}:/b", "--user", "1000", "attack", "sh", "-c", script.format("user"))
    first = rl.user.subids()[0][0]
    assert (shared / "root").stat().st_uid == rl.user.uid
    assert (shared / "user").stat().st_uid == first + 1000 - 1
    # In another container of the user a bind mount is nosuid, as a volume is: no gain there either.
    whoami = ["/b/root", "ids"]
    text = rl.ok("run", "--rm", "--network=none", "-v", f"{shared}:/b", "--user", "1000", "attack", *whoami)
    assert text == "1000 1000"
    text = rl.ok("run", "--rm", "--network=none", "-v", f"{shared}:/b:suid", "--user", "1000", "attack", *whoami)
    assert text == "1000 0"  # the control: asked for by name it works, within the container's ids
    rl.ok("run", "--rm", "--network=none", "-v", f"{shared}:/b", "attack", "rm", "/b/root", "/b/user")


def test_no_new_privileges_holds(rl: Rl) -> None:
    """A setuid-root file of the image, with run and with exec."""
    for flags, wanted in (((), "1000 0"), (("--security-opt", "no-new-privileges"), "1000 1000")):
        assert rl.ok("run", "--rm", "--network=none", *flags, "--user", "1000", "attack", "setuid-id", "ids") == wanted
        rl.ok("run", "-d", "--name", "box", "--network=none", *flags, "attack", "sleep", "60")
        assert rl.ok("exec", "--user", "1000", "box", "setuid-id", "ids") == wanted
        rl.clean()


def test_layers_are_closed_to_other_users(rl: Rl, install: Install) -> None:
    """A setuid file of an image, owned by the user, lies on the host's disk: nobody else may get at it."""
    found = subprocess.run(["find", str(rl.data / "layers"), "-name", "setuid-id"], capture_output=True, text=True, check=True).stdout.split()
    assert found
    other: Installation = install("own")
    for path in found:
        assert other.user.run("ls", path).returncode != 0
        assert rl.user.run("ls", path).returncode == 0  # the control
