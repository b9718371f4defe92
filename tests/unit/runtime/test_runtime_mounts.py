"""Mounts, as real root, as an ordinary user and in a user's shared namespace: real containers, read off mountinfo."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError, UnsupportedError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import cgroupmount, devices, mountoptions, mounts, seccomp
from unit.runtime.container_lab import Lab
from unit.runtime.mount_lab import RootLab, SharedLab, UserLab, become, give, labs, mountinfo, sh

SHOW = "cat /proc/self/mountinfo"


@pytest.fixture(params=["root", "user", "shared"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from labs(request.param)


@pytest.fixture
def root_lab() -> Iterator[Lab]:
    yield from labs("root")


@pytest.fixture
def shared_lab() -> Iterator[Lab]:
    yield from labs("shared")


@pytest.fixture
def user_lab() -> Iterator[Lab]:
    yield from labs("user")


def bind(destination: str, source: str | Path, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": list(options) or ["bind"]}


def data_directory(lab: Lab, name: str = "data") -> Path:
    path = lab.bundle / name
    path.mkdir()
    (path / "file").write_text("from the host\n")
    if isinstance(lab, UserLab):
        give(path, lab.user)
    return path


def with_submount(path: Path, attributes: int = 0, shared: bool = False) -> Callable[[dict[str, Any]], None]:
    """What a test does in the namespace of the caller: a tmpfs at *path*/sub, and *path* a mount of its own."""

    def inside(spec: dict[str, Any]) -> None:
        m.mount(str(path), str(path), None, m.MS_BIND)
        (path / "sub").mkdir(exist_ok=True)
        m.mount("tmpfs", str(path / "sub"), "tmpfs", attributes)
        if shared:
            m.mount(None, str(path), None, m.MS_SHARED | m.MS_REC)

    return inside


def output(lab: Lab, spec: dict[str, Any] | str, **named: Any) -> str:
    result = lab.run(spec, **named)
    assert result.error is None, (result.error.message, result.error.hint)
    return result.output


def error(lab: Lab, spec: dict[str, Any], **named: Any) -> RlError:
    result = lab.run(spec, **named)
    assert result.error is not None, result.output
    return result.error


# The file systems every container has


def test_default_file_systems(lab: Lab) -> None:
    found = mountinfo(output(lab, SHOW))
    assert {point: found[point][1] for point in ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys")} == {
        "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
    }
    assert {"nosuid", "noexec", "nodev"} <= found["/proc"][0]
    assert "ro" in found["/sys"][0] and "mode=755" in found["/dev"][2] and "size=64k" in found["/dev/shm"][2]
    assert "ptmxmode=666" in found["/dev/pts"][2]


def test_nothing_of_the_host_stays_mounted(lab: Lab) -> None:
    """pivot_root(2): the old root is gone, with all below it."""
    text = output(lab, SHOW + "; ls -a /..")
    points = set(mountinfo(text))
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert points - nodes == {
        "/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/proc/keys", "/sys/firmware", "/proc/acpi",
        "/proc/sys", "/proc/irq",
    } - ({"/proc/acpi"} if not os.path.exists("/proc/acpi") else set()), points  # fmt: skip
    assert "srv" in text.split() and "boot" not in text.split()


def test_bind_sources_are_opened_with_the_callers_rights(lab: Lab) -> None:
    """An ordinary user may copy mounts only in the child; there, what only the user can reach is still reached."""
    path = data_directory(lab)
    path.chmod(0o700)
    spec = sh(f"cat /data/file; {SHOW}")
    spec["mounts"].append(bind("/data", "data", "bind", "ro"))
    text = output(lab, spec)
    assert text.startswith("from the host\n") and "ro" in mountinfo(text)["/data"][0]


def test_sources_reached_by_the_caller_only(user_lab: UserLab) -> None:
    """The container's ids are subordinate ones, to which the directory is closed; the mount is made all the same."""
    path = data_directory(user_lab)
    path.chmod(0o711)
    path.parent.chmod(0o711)
    closed = path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir(mode=0o755)
    give(path, user_lab.user)
    spec = sh(SHOW)
    first, _ = user_lab.user.subids()[0]
    maps = [{"containerID": 0, "hostID": first, "size": 1000}]
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    spec["mounts"].append(bind("/srv", closed / "inner"))
    os.chown(user_lab.root, first, first)
    for name in ("dev", "proc", "sys"):
        os.chown(user_lab.root / name, first, first)
    assert "/srv" in mountinfo(output(user_lab, spec))


def test_sources_of_a_container_in_a_joined_user_namespace(user_lab: UserLab) -> None:
    """The child enters the namespace, makes a mount namespace there, and opens them then."""

    def other(spec: dict[str, Any]) -> None:
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            uid, gid = os.getuid(), os.getgid()
            ns.unshare(ns.CLONE_NEWUSER)
            kp.prctl(kp.PR_SET_DUMPABLE, 1)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                ns.write_proc(f"/proc/self/{name}", text)
            os.write(done, b"x")
            kp.close_range(3)
            kp.prctl(kp.PR_SET_PDEATHSIG, 9)
            time.sleep(20)
            os._exit(0)
        os.read(ready, 1)
        spec["linux"]["namespaces"][-1] = {"type": "user", "path": f"/proc/{pid}/ns/user"}
        del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]

    data_directory(user_lab)
    spec = sh("cat /data/file; echo a > /dev/full")
    spec["mounts"].append(bind("/data", "data"))
    text = output(user_lab, spec, inside=other)
    assert text.startswith("from the host\n") and "No space left" in text


def test_a_missing_source_is_an_error(lab: Lab) -> None:
    spec = sh("true")
    spec["mounts"].append(bind("/data", "nothing"))
    found = error(lab, spec)
    assert "nothing: No such file" in found.message and "create it" in found.hint
    spec["mounts"][-1]["source"] = ""
    assert "no source" in error(lab, spec).message


def test_root_with_a_new_user_namespace_opens_sources_itself(root_lab: Lab) -> None:
    path = data_directory(root_lab)
    path.chmod(0o700)
    closed = path / "closed"
    closed.mkdir()
    (closed / "file").write_text("behind a closed directory\n")
    maps = [{"containerID": 0, "hostID": 4000000, "size": 65536}]
    spec = sh("cat /data/file; id -u")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    spec["mounts"].append(bind("/data", closed))
    for name in ("", "dev", "proc", "sys", "srv"):
        os.chown(root_lab.root / name, 4000000, 4000000)
    assert output(root_lab, spec) == "behind a closed directory\n0\n"


# Options

ATTRIBUTES = [
    (["ro"], {"ro"}, {"rw"}), (["ro", "rw"], {"rw"}, {"ro"}), (["nosuid"], {"nosuid"}, set()),
    (["nosuid", "suid"], set(), {"nosuid"}), (["nodev"], {"nodev"}, set()), (["nodev", "dev"], set(), {"nodev"}),
    (["noexec"], {"noexec"}, set()), (["noexec", "exec"], set(), {"noexec"}),
    (["noatime"], {"noatime"}, {"relatime"}), (["noatime", "relatime"], {"relatime"}, {"noatime"}),
    (["noatime", "atime"], {"relatime"}, {"noatime"}), (["strictatime"], set(), {"noatime", "relatime"}),
    (["strictatime", "nostrictatime"], {"relatime"}, set()), (["norelatime"], {"relatime"}, set()),
    (["noatime", "strictatime"], set(), {"noatime", "relatime"}),
    (["nodiratime"], {"nodiratime"}, set()), (["nodiratime", "diratime"], set(), {"nodiratime"}),
    (["nosymfollow"], {"nosymfollow"}, set()), (["nosymfollow", "symfollow"], set(), {"nosymfollow"}),
    (["defaults", "silent", "loud", "x-comment=this"], {"rw"}, set()),
]  # fmt: skip


def changes_atime(lab: Lab, options: list[str]) -> bool:
    """What the kernel refuses in a user namespace, for mounts that came from outside of it."""
    return isinstance(lab, UserLab) and bool({"noatime", "strictatime", "nodiratime"} & set(options))


def test_attributes(lab: Lab) -> None:
    """Each on a bind mount and on a new file system; the later of two that contradict each other wins."""
    data_directory(lab)
    spec = sh(SHOW)
    for number, (options, _, _) in enumerate(ATTRIBUTES):
        if not changes_atime(lab, options):
            spec["mounts"].append(bind(f"/b/{number}", "data", "bind", *options))
        spec["mounts"].append({"destination": f"/t/{number}", "type": "tmpfs", "source": "t", "options": options})
    found = mountinfo(output(lab, spec))
    for number, (options, present, absent) in enumerate(ATTRIBUTES):
        for where in (f"/t/{number}",) if changes_atime(lab, options) else (f"/b/{number}", f"/t/{number}"):
            assert present <= found[where][0] and not absent & found[where][0], (options, where, found[where])


@pytest.mark.parametrize("option", ["noatime", "strictatime", "rnoatime", "nodiratime"])
def test_access_times_of_the_hosts_mounts_are_locked(shared_lab: Lab, user_lab: Lab, option: str) -> None:
    for lab in (shared_lab, user_lab):
        data_directory(lab)
        spec = sh("true")
        spec["mounts"].append(bind("/data", "data", "rbind", option))
        found = error(lab, spec)
        assert isinstance(found, UnsupportedError) and "access-time" in found.hint


RECURSIVE = [
    (["rro"], {"ro"}), (["rro", "rrw"], {"rw"}), (["rnosuid"], {"nosuid"}), (["rnodev"], {"nodev"}),
    (["rnoexec"], {"noexec"}), (["rnoatime"], {"noatime"}), (["rnoatime", "rrelatime"], {"relatime"}),
    (["rnoatime", "ratime"], {"relatime"}), (["rnodiratime"], {"nodiratime"}), (["rnosymfollow"], {"nosymfollow"}),
    (["rnosuid", "rsuid"], {"rw"}), (["rnodev", "rdev"], {"rw"}), (["rnoexec", "rexec"], {"rw"}),
    (["rnodiratime", "rdiratime"], {"rw"}), (["rnosymfollow", "rsymfollow"], {"rw"}),
    (["rstrictatime", "rnostrictatime"], {"relatime"}), (["rnorelatime"], {"relatime"}), (["ro"], {"ro"}),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["root", "shared"])
def test_recursive_attributes(kind: str) -> None:
    for lab in labs(kind):
        path = data_directory(lab)
        spec = sh(SHOW)
        for number, (options, _) in enumerate(RECURSIVE):
            spec["mounts"].append(bind(f"/b/{number}", "data", "rbind", *options))
        spec["mounts"].append(bind("/strict", "data", "rbind", "rstrictatime"))
        spec["mounts"].append(bind("/top", "data", "rbind", "nosuid"))

        def own_mount(spec: dict[str, Any], path: Path = path) -> None:
            m.mount("tmpfs", str(path), "tmpfs")  # on the host's, access times are locked for a user
            with_submount(path)(spec)

        found = mountinfo(output(lab, spec, inside=own_mount))
        for number, (options, present) in enumerate(RECURSIVE):
            for where in (f"/b/{number}", f"/b/{number}/sub"):
                assert present <= found[where][0], (options, where, found[where])
            if len(options) == 2:
                undone = {options[0][1:]} - present
                assert not undone & found[f"/b/{number}/sub"][0], (options, found[f"/b/{number}/sub"])
        assert not {"relatime", "noatime"} & found["/strict/sub"][0]
        assert "nosuid" in found["/top"][0] and "nosuid" not in found["/top/sub"][0]


def test_recursive_attributes_are_taken_away(root_lab: Lab) -> None:
    path = data_directory(root_lab)
    flags = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC | m.MS_NODIRATIME
    spec = sh(SHOW)
    spec["mounts"].append(bind("/data", "data", "rbind", "rrw", "rsuid", "rdev", "rexec", "rdiratime"))
    spec["mounts"].append(bind("/kept", "data", "rbind"))
    found = mountinfo(output(root_lab, spec, inside=with_submount(path, flags)))
    gone = {"ro", "nosuid", "nodev", "noexec", "nodiratime"}
    assert not gone & found["/data/sub"][0] and gone <= found["/kept/sub"][0]


def test_file_system_wide_options(lab: Lab) -> None:
    cases = [
        (["sync"], {"sync"}, set()), (["sync", "async"], set(), {"sync"}), (["dirsync"], {"dirsync"}, set()),
        (["lazytime"], {"lazytime"}, set()), (["lazytime", "nolazytime"], set(), {"lazytime"}),
        (["mand", "nomand"], set(), {"mand"}), (["mand"], set(), set()), (["iversion"], set(), set()), (["noiversion"], set(), set()),
        (["mode=711,size=64k"], {"mode=711", "size=64k"}, set()),
    ]  # fmt: skip
    spec = sh(SHOW)
    for number, (options, _, _) in enumerate(cases):
        spec["mounts"].append({"destination": f"/t/{number}", "type": "tmpfs", "source": "t", "options": options})
    found = mountinfo(output(lab, spec))
    for number, (options, present, absent) in enumerate(cases):
        assert present <= found[f"/t/{number}"][2] and not absent & found[f"/t/{number}"][2], (options, found)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"type": "bind", "source": "data", "options": ["bind", "size=3"]}, "size=3 is not one of a bind mount"),
        ({"type": "bind", "source": "data", "options": ["bind", "tmpcopyup"]}, "tmpcopyup"),
        ({"type": "ramfs", "source": "x", "options": ["iversion"]}, "iversion"),
        ({"type": "mqueue", "source": "x", "options": ["tmpcopyup"]}, "tmpcopyup is for a tmpfs"),
        ({"type": "bind", "source": "data", "options": ["bind", "copy-symlink", "src-nofollow"]}, "copy-symlink"),
        ({"type": "tmpfs", "source": "x", "options": ["idmap"]}, "no user namespace"),
        ({"type": "tmpfs", "source": "x", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}, "or neither"),
    ],
)
def test_options_that_cannot_be_honoured(root_lab: Lab, entry: dict[str, Any], text: str) -> None:
    data_directory(root_lab)
    spec = sh("true")
    spec["mounts"].append({"destination": "/here", **entry})
    found = error(root_lab, spec)
    assert isinstance(found, UnsupportedError) and text in found.message and found.hint


def test_options_of_a_file_system_that_it_does_not_know(lab: Lab) -> None:
    spec = sh("true")
    spec["mounts"].append({"destination": "/here", "type": "tmpfs", "source": "x", "options": ["nonsense=1"]})
    assert "/here" in error(lab, spec).message
    spec["mounts"][-1] = {"destination": "/here", "type": "nofs", "source": "x"}
    found = error(lab, spec)
    assert "nofs" in found.message and "/proc/filesystems" in found.hint


def test_remount(lab: Lab) -> None:
    spec = sh(f"{SHOW}; echo x > /dev/shm/x")
    spec["mounts"].append(
        {"destination": "/dev/shm", "type": "tmpfs", "source": "x", "options": ["remount", "ro", "size=128k"]}
    )
    text = output(lab, spec)
    found = mountinfo(text)["/dev/shm"]
    assert "ro" in found[0] and "nosuid" in found[0] and "size=128k" in found[2] and "Read-only" in text
    spec["mounts"][-1]["destination"] = "/srv"
    spec["mounts"][-1]["options"] = ["remount", "ro"]
    assert "a mount that is there" in error(lab, spec).hint


def test_split_keeps_commas_that_belong_to_a_value() -> None:
    assert mountoptions.split("mode=755,size=1k") == ["mode=755", "size=1k"]
    assert mountoptions.split('context="u:r:t:s0:c1,c2",mode=1') == ['context="u:r:t:s0:c1,c2"', "mode=1"]
    assert mountoptions.split("lowerdir=/a\\,b:/c,x") == ["lowerdir=/a\\,b:/c", "x"]


# Propagation

FORMS = [(form, kind) for kind in ("private", "slave", "shared", "unbindable") for form in (kind, "r" + kind)]


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_propagation_of_a_bind_mount(root_lab: Lab, form: str, kind: str) -> None:
    path = data_directory(root_lab)
    spec = sh(SHOW)
    spec["mounts"].append(bind("/data", "data", "rbind", form))
    found = mountinfo(output(root_lab, spec, inside=with_submount(path, shared=True)))
    mark = {"private": "", "slave": "master:", "shared": "shared:", "unbindable": "unbindable"}[kind]
    points = ("/data", "/data/sub") if form.startswith("r") else ("/data",)
    for point in points:
        fields = found[point][3]
        assert fields.startswith(mark) if mark else fields == "", (point, fields)
    if form in ("private", "unbindable", "slave"):
        assert found["/data/sub"][3] != found["/data"][3] or form == "private"


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_propagation_of_the_root(root_lab: Lab, form: str, kind: str) -> None:
    def shared(spec: dict[str, Any]) -> None:
        m.mount(str(root_lab.root), str(root_lab.root), None, m.MS_BIND)
        m.mount(None, str(root_lab.root), None, m.MS_SHARED)

    spec = sh(SHOW)
    spec["linux"]["rootfsPropagation"] = form
    found = mountinfo(output(root_lab, spec, inside=shared))
    fields, below = found["/"][3], found["/dev/shm"][3]
    mark = {"private": "", "slave": "master:", "shared": "shared:", "unbindable": "unbindable"}[kind]
    assert fields.startswith(mark) if mark else fields == "", fields
    if kind in ("shared", "unbindable"):
        assert below.startswith(mark) == form.startswith("r")


def test_a_slave_root_receives_mounts_and_a_private_one_does_not(root_lab: Lab) -> None:
    signal = root_lab.root / "tmp/go"

    def shared(spec: dict[str, Any]) -> None:
        m.mount(str(root_lab.root), str(root_lab.root), None, m.MS_BIND)
        m.mount(None, str(root_lab.root), None, m.MS_SHARED)
        if os.fork() == 0:
            try:
                for _ in range(200):
                    if signal.exists():
                        break
                    time.sleep(0.02)
                m.mount("tmpfs", str(root_lab.root / "srv"), "tmpfs")
                (root_lab.root / "tmp/done").write_text("")
                time.sleep(2)
            finally:
                os._exit(0)

    script = "touch /tmp/go; n=0; while [ ! -e /tmp/done ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done; " + SHOW
    for form, received in (("rslave", True), ("private", False)):
        for name in ("go", "done"):
            (root_lab.root / "tmp" / name).unlink(missing_ok=True)
        spec = sh(script)
        spec["linux"]["rootfsPropagation"] = form
        assert ("/srv" in mountinfo(output(root_lab, spec, inside=shared))) == received, form


def test_an_unknown_propagation(lab: Lab) -> None:
    spec = sh("true")
    spec["linux"]["rootfsPropagation"] = "public"
    assert "public" in error(lab, spec).message


# Read-only last


def test_a_read_only_file_system_is_filled_first(lab: Lab) -> None:
    """Mount points and device nodes are made in it, then it becomes read-only."""
    data_directory(lab)
    spec = sh("cat /ro/below/file; touch /ro/x; touch /dev/x; [ -c /dev/null ] && echo node; touch /new")
    spec["root"]["readonly"] = True
    spec["mounts"].append({"destination": "/ro", "type": "tmpfs", "source": "x", "options": ["ro"]})
    spec["mounts"].append(bind("/ro/below", "data", "bind", "ro"))
    next(entry for entry in spec["mounts"] if entry["destination"] == "/dev")["options"].append("ro")
    text = output(lab, spec)
    assert text.startswith("from the host\n") and text.count("Read-only file system") == 3 and "node\n" in text


def test_copy_up_into_a_read_only_tmpfs(lab: Lab) -> None:
    (lab.root / "var/lib").mkdir(parents=True)
    (lab.root / "var/lib/file").write_text("image\n")
    (lab.root / "var").chmod(0o711)
    if isinstance(lab, UserLab):
        give(lab.root / "var", lab.user)
    spec = sh("cat /var/lib/file; stat -c %a /var; touch /var/x")
    spec["mounts"].append({"destination": "/var", "type": "tmpfs", "source": "x", "options": ["tmpcopyup", "ro"]})
    text = output(lab, spec)
    assert text.startswith("image\n711\n") and "Read-only" in text


def test_a_tmpfs_keeps_the_mode_of_its_mount_point(lab: Lab) -> None:
    (lab.root / "srv").chmod(0o751)
    spec = sh("stat -c %a /srv /tmp /made")
    spec["mounts"] += [
        {"destination": "/srv", "type": "tmpfs", "source": "x"},
        {"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["mode=700"]},
        {"destination": "/made", "type": "tmpfs", "source": "x"},
    ]
    assert output(lab, spec).split() == ["751", "700", "1777"]


def test_a_read_only_bind_is_not_written_for_a_mount_below(lab: Lab) -> None:
    path = data_directory(lab)
    spec = sh("true")
    spec["mounts"] += [bind("/data", "data", "bind", "ro"), bind("/data/below", "data")]
    found = error(lab, spec)
    assert "Read-only" in found.message and "create it there first" in found.hint
    assert not (path / "below").exists()


def test_kernels_without_mount_setattr(lab: Lab) -> None:
    """Before Linux 5.12 mount(2) does it, in the same order."""
    missing = seccomp.program_for({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount_setattr"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    })

    def older(spec: dict[str, Any]) -> None:
        kp.prctl(kp.PR_SET_NO_NEW_PRIVS, 1)
        assert missing is not None
        seccomp.install(missing)

    data_directory(lab)
    spec = sh(f"cat /ro/below/file; {SHOW}")
    spec["root"]["readonly"] = True
    spec["mounts"].append({"destination": "/ro", "type": "tmpfs", "source": "x", "options": ["ro", "nosuid"]})
    spec["mounts"].append(bind("/ro/below", "data", "bind", "ro", "nodev"))
    spec["mounts"].append({"destination": "/dev/shm", "type": "tmpfs", "source": "x", "options": ["remount", "ro"]})
    text = output(lab, spec, inside=older)
    found = mountinfo(text)
    assert text.startswith("from the host\n")
    for point, options in (("/ro", {"ro", "nosuid"}), ("/ro/below", {"ro", "nodev"}), ("/", {"ro"}), ("/proc/sys", {"ro"}),
                           ("/dev/shm", {"ro", "nosuid"})):
        assert options <= found[point][0], (point, found[point])


def test_where_mounts_cannot_be_copied(lab: Lab) -> None:
    """An outer container's seccomp profile: EPERM outside and inside, told once, as what it is."""
    forbidden = seccomp.program_for({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["open_tree"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    })

    def inside(spec: dict[str, Any]) -> None:
        kp.prctl(kp.PR_SET_NO_NEW_PRIVS, 1)
        assert forbidden is not None
        seccomp.install(forbidden)

    found = error(lab, sh("true"), inside=inside)
    assert isinstance(found, UnsupportedError) and "/dev/null: Operation not permitted" in found.message
    assert "outer container" in found.hint


# Symbolic links, on purpose and not


def test_nofollow_options(lab: Lab) -> None:
    path = data_directory(lab)
    (path / "link").symlink_to("nowhere")
    (lab.root / "srv/target").write_text("of the image\n")
    (lab.root / "srv/link").symlink_to("target")
    (lab.root / "srv/empty").write_text("")
    spec = sh("readlink /srv/empty; readlink /srv/link; cat /srv/target; readlink /copied; readlink /srv/same")
    (lab.root / "srv/same").symlink_to("nowhere")
    spec["mounts"] += [
        bind("/srv/empty", "data/link", "bind", "src-nofollow"),
        bind("/srv/link", "data/link", "bind", "src-nofollow", "dest-nofollow"),
        bind("/copied", "data/link", "bind", "copy-symlink"),
        bind("/srv/same", "data/link", "bind", "copy-symlink"),
    ]
    assert output(lab, spec) == "nowhere\nnowhere\nof the image\nnowhere\nnowhere\n"
    assert (lab.root / "copied").is_symlink()
    spec["mounts"][-1]["destination"] = "/srv/target"
    assert "something else" in error(lab, spec).message


def test_dest_nofollow_covers_the_link(lab: Lab) -> None:
    data_directory(lab)
    (lab.root / "srv/target").write_text("of the image\n")
    (lab.root / "srv/link").symlink_to("target")
    spec = sh("cat /srv/link /srv/target")
    spec["mounts"].append(bind("/srv/link", "data/file", "bind", "dest-nofollow"))
    assert output(lab, spec) == "from the host\nof the image\n"


def test_copy_symlink_of_what_is_none(lab: Lab) -> None:
    data_directory(lab)
    spec = sh("cat /srv/file")
    spec["mounts"].append(bind("/srv/file", "data/file", "bind", "copy-symlink"))
    assert output(lab, spec) == "from the host\n"


def arrange_targets(root: Path) -> None:
    (root / "file").write_text("")
    (root / "loop").symlink_to("loop")
    (root / "to-root").symlink_to("/")
    (root / "to-proc").symlink_to("proc")
    (root / "dangling").symlink_to("not/yet/there")
    (root / "outwards").symlink_to("../../../../../../../../etc")
    (root / "absolute").symlink_to("/tmp/below")


@pytest.mark.parametrize(
    ("destination", "source", "text"),
    [
        ("/srv", "data/file", "file over a file"), ("/file", "data", "directory"), ("/file/x", "data", "/file/x"),
        ("/file/x/y", "data/file", "directory"), ("/loop", "data", "symbolic link"), ("/loop/x", "data", "symbolic link"),
        ("/", "data", "cover the root"), ("/to-root", "data", "cover the root"), ("/", "data/file", "cover the root"),
        ("/srv/../", "data", "cover the root"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be(lab: Lab, destination: str, source: str, text: str) -> None:
    data_directory(lab)
    arrange_targets(lab.root)
    spec = sh("true")
    spec["mounts"].append(bind(destination, source))
    found = error(lab, spec)
    assert text in found.message + found.hint, (found.message, found.hint)


def test_a_target_in_a_directory_of_somebody_else(user_lab: UserLab) -> None:
    data_directory(user_lab)
    (user_lab.root / "roots").mkdir(mode=0o755)
    os.chown(user_lab.root / "roots", 0, 0)
    spec = sh("true")
    spec["mounts"].append(bind("/roots/new", "data"))
    found = error(user_lab, spec)
    assert "create: Permission denied" in found.message and "somebody else's" in found.hint


def test_targets_are_made_inside_the_root(lab: Lab) -> None:
    data_directory(lab)
    arrange_targets(lab.root)
    name = f"rl-test-{os.getpid()}"
    points = ["/new/deep/dir", "/dangling", f"/outwards/{name}", "/absolute"]
    spec = sh("; ".join(f"cat {point}/file" for point in [*points, "/not/yet/there", f"/etc/{name}", "/tmp/below"]))
    spec["mounts"] += [bind(point, "data") for point in points]
    assert output(lab, spec) == "from the host\n" * 7
    assert not os.path.lexists(f"/etc/{name}") and not os.path.lexists("/tmp/below")
    assert (lab.root / "not/yet/there").is_dir() and (lab.root / "etc" / name).is_dir()


# /proc


@pytest.mark.parametrize("destination", ["/proc/self", "/proc/sys/kernel", "/to-proc/sys", "/proc/1/fd", "/proc/nothing"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_nothing_is_mounted_inside_proc(shared_lab: Lab, destination: str, kind: str) -> None:
    data_directory(shared_lab)
    arrange_targets(shared_lab.root)
    spec = sh("true")
    spec["mounts"].append({"destination": destination, "type": kind, "source": "data"})
    found = error(shared_lab, spec)
    assert isinstance(found, UnsupportedError) and "inside /proc" in found.message and "/proc/uptime" in found.hint


def test_only_proc_is_mounted_on_proc(lab: Lab) -> None:
    data_directory(lab)
    arrange_targets(lab.root)
    for destination in ("/proc", "/to-proc"):
        for kind in ("tmpfs", "bind"):
            spec = sh("true")
            spec["mounts"].append({"destination": destination, "type": kind, "source": "data"})
            assert "only a procfs" in error(lab, spec).message, (destination, kind)
    spec = sh(f"{SHOW}; cat /proc/uptime")
    spec["mounts"][0] = bind("/proc", "/proc", "rbind")
    spec["mounts"].append(bind("/proc/uptime", "data/file"))
    text = output(lab, spec)
    assert mountinfo(text)["/proc"][1] == "proc" and text.endswith("from the host\n")


def test_a_second_procfs_is_protected_too(root_lab: Lab) -> None:
    data_directory(root_lab)
    spec = sh("true")
    spec["mounts"] += [{"destination": "/other", "type": "proc", "source": "proc"}, bind("/other/sys", "data")]
    assert "inside /proc" in error(root_lab, spec).message


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sysfs_are_not_mounted_through_a_link(lab: Lab, name: str) -> None:
    (lab.root / name).rmdir()
    (lab.root / name).symlink_to("tmp")
    found = error(lab, sh("true"))
    assert f"on /{name}" in found.message and "symbolic link" in found.hint


@pytest.mark.parametrize("option", ["hidepid=2", "hidepid=invisible"])
def test_options_of_proc(lab: Lab, option: str) -> None:
    spec = sh(SHOW)
    spec["mounts"][0]["options"] = ["nosuid", option]
    assert "hidepid=invisible" in mountinfo(output(lab, spec))["/proc"][2]


# Paths to hide


def test_masked_and_read_only_paths_of_all_kinds(lab: Lab) -> None:
    (lab.root / "hide").mkdir()
    (lab.root / "hide/inside").write_text("x")
    (lab.root / "secret").write_text("x")
    (lab.root / "link-to-secret").symlink_to("secret")
    (lab.root / "link-to-hide").symlink_to("/hide")
    (lab.root / "keep").mkdir()
    (lab.root / "keep-file").write_text("kept")
    (lab.root / "link-to-keep").symlink_to("../../keep2")
    (lab.root / "keep2").mkdir()
    (lab.root / "secret2").write_text("x")
    (lab.root / "to-secret2").symlink_to("../../../secret2")
    spec = sh(
        "ls -A /hide | wc -l; wc -c < /secret; wc -c < /secret2; touch /hide/x; touch /keep/x; touch /keep2/x;"
        "echo > /keep-file; cat /keep-file; echo > /secret; " + SHOW
    )
    spec["linux"]["maskedPaths"] = ["/hide", "/secret", "/missing", "/missing/too", "/to-secret2", "/secret/below"]
    spec["linux"]["readonlyPaths"] = ["/keep", "/keep-file", "/missing", "/link-to-keep"]
    text = output(lab, spec)
    assert text.split()[:3] == ["0", "0", "0"] and text.count("Read-only file system") == 4 and "kept" in text
    found = mountinfo(text)
    assert {"/hide", "/secret", "/secret2", "/keep", "/keep-file", "/keep2"} <= set(found)
    assert {"ro", "nosuid", "nodev", "noexec"} <= found["/hide"][0] and found["/hide"][1] == "tmpfs"


def test_the_source_of_a_mask_is_verified(root_lab: Lab) -> None:
    """CVE-2025-31133: what the caller sees as /dev/null is not it."""
    data_directory(root_lab)
    for source, text in (("data/file", "not a device node"), ("/dev/zero", "is 1:5 here, not 1:3")):

        def cover(spec: dict[str, Any], source: str = source) -> None:
            m.mount(os.path.join(root_lab.bundle, source), "/dev/null", None, m.MS_BIND)

        assert text in error(root_lab, sh("true"), inside=cover).message


def test_the_image_has_no_say_in_what_masks(lab: Lab) -> None:
    """CVE-2025-31133, the image's side: its own /dev/null leads elsewhere."""
    (lab.root / "dev/null").symlink_to("/proc/sysrq-trigger")
    (lab.root / "secret").write_text("x")
    spec = sh("[ -c /secret ] && wc -c < /secret; stat -c %t:%T /secret")
    spec["linux"]["maskedPaths"] = ["/secret"]
    assert output(lab, spec).split() == ["0", "1:3"]


# Namespaces that are the host's


@pytest.mark.parametrize("kind", ["user", "shared"])
def test_sysfs_of_the_hosts_network(kind: str) -> None:
    """It cannot be mounted in a user namespace; the host's is bound instead, read-only down to the last mount."""
    for lab in labs(kind):
        spec = sh(SHOW)
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
        spec["linux"]["maskedPaths"] = []
        found = mountinfo(output(lab, spec))
        below = {point: fields for point, fields in found.items() if point.startswith("/sys/")}
        assert found["/sys"][1] == "sysfs" and below, "the host has mounts below /sys"
        for point in ("/sys", *below):
            assert "ro" in found[point][0], (point, found[point])


def test_the_hosts_message_queues() -> None:
    class Lab2(SharedLab):
        def enter(self) -> str:
            ns.unshare(ns.CLONE_NEWNS)
            m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
            m.mount("tmpfs", "/dev", "tmpfs")
            for name, numbers in devices.DEFAULT_NODES.items():
                os.mknod(f"/dev/{name}", 0o20666, os.makedev(*numbers))
                os.chmod(f"/dev/{name}", 0o666)
            os.mkdir("/dev/mqueue")
            m.mount("mqueue", "/dev/mqueue", "mqueue")
            return super().enter()

    for base in labs("shared"):
        base.__class__ = Lab2
        spec = sh(SHOW)
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "ipc"]
        found = mountinfo(output(base, spec))["/dev/mqueue"]
        assert found[1] == "mqueue" and {"nosuid", "noexec", "nodev"} <= found[0]


def test_the_group_of_terminals(user_lab: Lab, shared_lab: Lab) -> None:
    """gid=5 (tty) is left out where no such id is mapped; another gid that is not mapped is an error."""
    assert not any(o.startswith("gid=") for o in mountinfo(output(user_lab, SHOW))["/dev/pts"][2])
    spec = sh("touch /dev/shm/x; stat -c %g /dev/pts/ptmx; grep -c gid= /proc/self/mountinfo; true")
    assert any(o.startswith("gid=") for o in mountinfo(output(shared_lab, SHOW))["/dev/pts"][2])
    spec["mounts"][2]["options"][-1] = "gid=7"
    assert "devpts" in error(user_lab, spec).message


# cgroup v2


class CgroupLab(RootLab):
    """The caller is in a cgroup of its own in a cgroup v2 tree that only it sees; *user*: root of a user's namespace."""

    user: Any = None
    group = f"/rl-test-mounts-{os.getpid()}"

    def enter(self) -> str:
        super().enter()
        m.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        os.makedirs(f"/sys/fs/cgroup{self.group}/inner", exist_ok=True)
        Path(f"/sys/fs/cgroup{self.group}/inner/cgroup.procs").write_text("0")
        if self.user is None:
            return "root"
        from rl.runtime import userns

        become(self.user)
        return userns.enter(str(self.run_dir))


@pytest.fixture(params=["root", "shared"])
def cgroup_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    for lab in labs(request.param):
        user = getattr(lab, "user", None)
        lab.__class__ = CgroupLab
        lab.user = user
        try:
            yield lab
        finally:
            pid = os.fork()
            if pid == 0:
                try:
                    ns.unshare(ns.CLONE_NEWNS)
                    m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
                    m.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
                    for name in (f"{lab.group}/inner", lab.group):
                        os.rmdir(f"/sys/fs/cgroup{name}")
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0, "the cgroup is gone"


def cgroup_spec(script: str, *options: str) -> dict[str, Any]:
    spec = sh(script)
    spec["mounts"].append(
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", *options]}
    )
    return spec


@pytest.mark.parametrize("access", ["ro", "rw"])
def test_cgroup_with_a_namespace(cgroup_lab: Lab, access: str) -> None:
    spec = cgroup_spec(f"ls /sys/fs/cgroup/cgroup.events; cat /proc/self/cgroup; {SHOW}", access)
    text = output(cgroup_lab, spec)
    found = mountinfo(text)["/sys/fs/cgroup"]
    assert found[1] == "cgroup2" and access in found[0] and "nosuid" in found[0]
    assert "/sys/fs/cgroup/cgroup.events" in text, "its own cgroup, not the root of all, which has no such file"


def test_cgroup_without_a_namespace(cgroup_lab: Lab) -> None:
    """Real root sees the whole tree, as runc has it; in a user namespace just the own cgroup is bound."""
    spec = cgroup_spec(f"ls /sys/fs/cgroup; {SHOW}", "ro")
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "cgroup"]
    text = output(cgroup_lab, spec)
    found = mountinfo(text)["/sys/fs/cgroup"]
    root = next(line.split()[3] for line in text.splitlines() if " /sys/fs/cgroup " in line)
    assert found[1] == "cgroup2" and "ro" in found[0]
    if cgroup_lab.user is None:
        assert root == "/"
    else:
        assert root == f"{cgroup_lab.group}/inner" and cgroup_lab.group[1:] not in text.split()


def test_where_the_own_cgroup_is_shown() -> None:
    line = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    nested = "31 23 0:26 /outer /cg rw - cgroup2 cgroup2 rw\n"
    assert cgroupmount.locate("/a/b", [line]) == ["/sys/fs/cgroup/a/b"]
    assert cgroupmount.locate("/", [line]) == ["/sys/fs/cgroup"]
    assert cgroupmount.locate("/outer/b", [nested, line]) == ["/cg/b", "/sys/fs/cgroup/outer/b"]
    assert cgroupmount.locate("/outside", [nested]) == []
    assert cgroupmount.locate("/outer", ["1 1 0:1 / /proc rw - proc proc rw\n", nested]) == ["/cg"]


# Other file systems, as root


def test_other_file_systems_as_root(root_lab: Lab) -> None:
    for name in ("lower1", "upper", "work"):
        (root_lab.bundle / name).mkdir()
    (root_lab.bundle / "lower1/a").write_text("lower\n")
    bundle = root_lab.bundle
    spec = sh(f"cat /over/a; echo new > /over/b; {SHOW}")
    spec["mounts"] += [
        {"destination": "/ram", "type": "ramfs", "source": "ramfs", "options": ["mode=700", "noexec"]},
        {"destination": "/bpf", "type": "bpf", "source": "bpf", "options": ["mode=700"]},
        {"destination": "/over", "type": "overlay", "source": "overlay", "options": [
            f"lowerdir={bundle}/lower1,upperdir={bundle}/upper", f"workdir={bundle}/work", "nodev"]},
    ]
    text = output(root_lab, spec)
    found = mountinfo(text)
    assert text.startswith("lower\n") and (bundle / "upper/b").read_text() == "new\n"
    assert found["/ram"][1] == "ramfs" and "noexec" in found["/ram"][0] and found["/bpf"][1] == "bpf"
    assert found["/over"][1] == "overlay" and "nodev" in found["/over"][0]


def loop_device(image: Path, *options: str) -> str:
    done = subprocess.run(["losetup", *options, "--find", "--show", str(image)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device to be had: {done.stderr.strip()}")
    return done.stdout.strip()


def test_a_disk_as_root(root_lab: Lab) -> None:
    """A file system on a device: options of ext4, one that cannot be written, id-mapped."""
    content = root_lab.bundle / "content"
    content.mkdir()
    (content / "file").write_text("on the disk\n")
    image = root_lab.bundle / "image"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(content), str(image)], check=True, stdout=subprocess.DEVNULL)
    for flags, options, script in (
        (["--read-only"], ["ro"], f"cat /disk/file; {SHOW}; touch /disk/x"),
        ([], ["sync", "iversion", "noatime", "errors=remount-ro"], f"cat /disk/file; {SHOW}; touch /disk/x && echo made"),
        ([], ["ro", "idmap"], f"cat /disk/file; {SHOW}; stat -c %u /disk/file; touch /disk/x"),
    ):
        device = loop_device(image, *flags)
        try:
            spec = sh(script)
            entry = {"destination": "/disk", "type": "ext4", "source": device, "options": options}
            if "idmap" in options:
                entry.update(uidMappings=MAP, gidMappings=MAP)
            spec["mounts"].append(entry)
            text = output(root_lab, spec)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
        found = mountinfo(text)["/disk"]
        assert text.startswith("on the disk\n") and found[1] == "ext4"
        if "ro" in options:
            assert "ro" in found[0] and "Read-only file system" in text
        else:
            assert "sync" in found[2] and "noatime" in found[0] and text.endswith("made\n")
        assert "idmap" not in options or "\n1000\n" in text


def test_an_option_longer_than_fsconfig_takes(root_lab: Lab) -> None:
    deep = root_lab.bundle
    layers = []
    for number in range(6):
        layer = deep / f"{number}{'x' * 50}"
        layer.mkdir()
        (layer / f"from{number}").write_text("")
        layers.append(str(layer))
    spec = sh(f"ls /over; {SHOW}")
    spec["mounts"].append({
        "destination": "/over", "type": "overlay", "source": "overlay",
        "options": ["lowerdir=" + ":".join(layers), "ro", "nosuid"],
    })
    text = output(root_lab, spec)
    assert [f"from{number}" in text for number in range(6)] == [True] * 6
    assert {"ro", "nosuid"} <= mountinfo(text)["/over"][0]
    spec["mounts"][-1]["options"].append("shared")
    assert "255 bytes" in error(root_lab, spec).message


def test_mount_label(lab: Lab) -> None:
    """An option of the file systems that SELinux labels by it; on a host without SELinux it has no effect."""
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    assert mounts.label_options("tmpfs", label, True) == [f"context={label}"]
    assert mounts.label_options("proc", label, True) == mounts.label_options("tmpfs", "", True) == []
    assert mounts.label_options("tmpfs", label, False) == []
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("SELinux is enabled here: the label would have to exist in its policy")
    spec = sh(SHOW)
    spec["linux"]["mountLabel"] = label
    assert "context" not in output(lab, spec)


# Id-mapped mounts

MAP = [{"containerID": 0, "hostID": 1000, "size": 10}]


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_id_mapped_bind_as_root(root_lab: Lab, option: str) -> None:
    path = data_directory(root_lab)
    (path / "sub").mkdir()
    spec = sh("stat -c %u:%g /data/file /data/sub /plain/file; touch /data/new")
    spec["mounts"].append({**bind("/data", "data", "rbind", option), "uidMappings": MAP, "gidMappings": MAP})
    spec["mounts"].append(bind("/plain", "data"))
    lines = output(root_lab, spec, inside=with_submount(path)).split()
    assert lines[0] == "1000:1000" and lines[2] == "0:0"
    assert lines[1] == ("1000:1000" if option == "ridmap" else "0:0")


def test_id_mapped_by_mappings_alone(root_lab: Lab) -> None:
    """The option is there so that older runtimes fail; the mappings say it by themselves."""
    data_directory(root_lab)
    spec = sh("stat -c %u /data/file /t")
    spec["mounts"].append({**bind("/data", "data"), "uidMappings": MAP, "gidMappings": MAP})
    spec["mounts"].append(
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["idmap"], "uidMappings": MAP, "gidMappings": MAP}
    )
    assert output(root_lab, spec).split() == ["1000", "1000"]


def test_id_mapped_to_the_containers_user_namespace(root_lab: Lab) -> None:
    path = data_directory(root_lab)
    maps = [{"containerID": 0, "hostID": 5000000, "size": 65536}]
    spec = sh("stat -c %u:%g /data/file /plain/file; echo mine > /data/new")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    spec["mounts"] += [bind("/data", "data", "bind", "idmap"), bind("/plain", "data")]
    for name in ("", "dev", "proc", "sys"):
        os.chown(root_lab.root / name, 5000000, 5000000)
    assert output(root_lab, spec).split() == ["0:0", "65534:65534"]
    assert (path / "new").stat().st_uid == 0, "written as root of the container, owned by root on the disk"


def test_id_mapped_mounts_of_a_user(shared_lab: SharedLab) -> None:
    """The kernel lets a user map what was mounted in the user's own namespace, and not the host's disk."""
    path = data_directory(shared_lab)
    maps = [{"containerID": 0, "hostID": 7, "size": 1}]

    def own(spec: dict[str, Any]) -> None:
        m.mount("tmpfs", str(path), "tmpfs", 0, "mode=755")
        (path / "file").write_text("")

    spec = sh("stat -c %u:%g /data/file")
    spec["mounts"].append({**bind("/data", "data", "bind", "idmap"), "uidMappings": maps, "gidMappings": maps})
    spec["mounts"].append(
        {"destination": "/t", "type": "tmpfs", "source": "t", "uidMappings": maps, "gidMappings": maps}
    )
    assert output(shared_lab, spec, inside=own).split() == ["7:7"]
    found = error(shared_lab, spec)
    assert isinstance(found, UnsupportedError) and "mount /data: map ids" in found.message and "real root" in found.hint


@pytest.mark.parametrize("kind", ["proc", "mqueue"])
def test_id_mapping_what_cannot_be_mapped(root_lab: Lab, kind: str) -> None:
    spec = sh("true")
    spec["mounts"].append(
        {"destination": "/here", "type": kind, "source": kind, "options": ["idmap"], "uidMappings": MAP, "gidMappings": MAP}
    )
    found = error(root_lab, spec)
    assert isinstance(found, UnsupportedError) and "mount /here" in found.message and "cannot be id-mapped" in found.hint


# Writing to /proc


def in_namespace(action: Callable[[], None]) -> str:
    """What *action* raised in a mount namespace of its own, or ""."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            ns.unshare(ns.CLONE_NEWNS)
            m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
            action()
        except BaseException as error:
            os.write(write, f"{type(error).__name__} {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, encoding="utf-8") as file:
        return file.read()


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts over /proc here")
def test_writes_to_proc_go_to_proc(tmp_path: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881: nothing that is mounted over a file of /proc, or over /proc, gets the write."""
    other = tmp_path / "other"
    other.write_text("untouched")
    fake = tmp_path / "proc"
    (fake / "self").mkdir(parents=True)
    (fake / "self/oom_score_adj").write_text("untouched")
    path = "/proc/self/oom_score_adj"

    def write() -> None:
        ns.write_proc(path, "500")
        assert Path(path).read_text() == "500\n"

    def covered_file() -> None:
        m.mount(str(other), path, None, m.MS_BIND)
        write()

    def other_proc_file() -> None:
        m.mount("/proc/self/coredump_filter", path, None, m.MS_BIND)
        write()

    def covered_proc() -> None:
        m.mount(str(fake), "/proc", None, m.MS_BIND)
        write()

    def part_of_proc() -> None:
        m.mount("/proc/tty", "/proc", None, m.MS_BIND)
        ns.write_proc("/proc/drivers", "x")

    def covered_sysctl() -> None:
        m.mount("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/domainname", None, m.MS_BIND)
        ns.write_proc("/proc/sys/kernel/domainname", "x")

    def mixed_sysctl() -> None:  # as LXC has it
        ns.unshare(ns.CLONE_NEWUTS)
        m.mount("/proc/sys/kernel", "/proc/sys/kernel", None, m.MS_BIND)
        ns.write_proc("/proc/sys/kernel/domainname", "fine")
        assert Path("/proc/sys/kernel/domainname").read_text() == "fine\n"

    assert in_namespace(write) == ""
    for action in (covered_file, other_proc_file, covered_sysctl):
        assert "mounted over" in in_namespace(action), action.__name__
    assert "not on a procfs" in in_namespace(covered_proc)
    assert "not the root of a procfs" in in_namespace(part_of_proc)
    assert in_namespace(mixed_sysctl) == ""

    def magic_link() -> None:  # to another file of the same procfs
        fd = os.open("/proc/self/comm", os.O_WRONLY)
        ns.write_proc(f"/proc/self/fd/{fd}", "led astray")

    for action in (magic_link, lambda: ns.write_proc("/proc/self/exe", "x")):
        assert "OSError" in in_namespace(action)
    assert other.read_text() == "untouched" and (fake / "self/oom_score_adj").read_text() == "untouched"
