"""-v, --mount, --tmpfs, devices, capabilities, --security-opt, --ulimit, --sysctl: tables of good and bad input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rl.engine.spec import id_mount, mount_flag, mounts, security
from rl.errors import UnsupportedError, UsageError

TMPFS = ["nosuid", "nodev", "rprivate", "tmpcopyup"]


@pytest.mark.parametrize(
    ("text", "kind", "source", "destination", "options"),
    [
        ("/etc:/x", "bind", "/etc", "/x", ["rbind"]),
        ("/etc:/x:", "bind", "/etc", "/x", ["rbind"]),
        ("/etc/:/x//y/../z:ro,Z,nosuid", "bind", "/etc", "/x/z", ["rbind", "ro", "nosuid"]),
        ("/etc:/x:bind,rslave", "bind", "/etc", "/x", ["bind", "rslave"]),
        ("name:/x", "volume", "name", "/x", []),
        ("my.vol_1-2:/x:ro,U", "volume", "my.vol_1-2", "/x", ["ro", "U"]),
        ("name:/x:nocopy", "volume", "name", "/x", []),
    ],
)
def test_volume_flag(text: str, kind: str, source: str, destination: str, options: list[str]) -> None:
    found = mounts.parse_volume(text)
    assert (found["type"], found["source"], found["destination"], found["options"]) == (kind, source, destination, options)
    assert bool(found.get("no_copy")) == ("nocopy" in text)


def test_words_of_ours() -> None:
    found = mounts.parse_volume("/etc:/x:O,U,upperdir=/a,workdir=/b")
    assert (found["overlay"], found["upper"], found["work"], found["options"]) == (True, "/a", "/b", ["rbind", "U"])
    assert mounts.parse_volume("v:/x:O")["overlay"] is True
    assert mounts.parse_volume("/etc:/x:cached,rro")["options"] == ["rbind", "rro"]
    found = mounts.parse_volume("/etc:/x:idmap=uids=0-1000-1#@1-2-10;gids=0-100-10")
    assert found["id_map"] == {"uids": [[0, 1000, 1, 0], [1, 2, 10, 1]], "gids": [[0, 100, 10, 0]]}
    assert id_mount.mappings(found["id_map"]["uids"], [(0, 1, 7), (7, 0, 1)]) == [
        {"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 3, "size": 10},
    ]


def test_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lib1", "lib2", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    found = mount_flag.parse_all("type=glob,src=lib*,dst=/usr/lib,ro")
    assert [(spec["source"], spec["destination"], spec["options"]) for spec in found] == [
        (f"{tmp_path}/lib{number}", f"/usr/lib/lib{number}", ["rbind", "ro"]) for number in (1, 2)
    ]
    found = mount_flag.parse_all(f"type=glob,src={tmp_path}/o*r")
    assert [(spec["source"], spec["destination"]) for spec in found] == [(f"{tmp_path}/other", f"{tmp_path}/other")]


@pytest.mark.parametrize("text", ["type=artifact,src=a,dst=/x", "type=npipe,src=a,dst=/x", "type=cluster,src=a,dst=/x", "type=ramfs,dst=/x,size=1m",
                                  "type=ramfs,dst=/x,noswap", "type=volume,src=v,dst=/x,volume-driver=nfs", "type=image,src=a,dst=/x,idmap"])
def test_what_cannot_be_had_here(text: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        mount_flag.parse_all(text)
    assert caught.value.hint


def test_a_source_behind_a_closed_directory(tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is closed to root")
    (tmp_path / "closed/below").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UnsupportedError) as caught:
        mounts.parse_volume(f"{tmp_path}/closed/below:/x")
    (tmp_path / "closed").chmod(0o700)
    assert f"{tmp_path}/closed belongs to" in caught.value.message and "mode 0000" in caught.value.message
    assert caught.value.hint == f"chmod u+x {tmp_path}/closed"


def test_relative_sources_are_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    for text, source in (("./.hidden:/x", tmp_path / ".hidden"), (".hidden:/x", tmp_path / ".hidden"), (".:/x", tmp_path), ("..:/x", tmp_path.parent)):
        assert mounts.parse_volume(text)["source"] == str(source)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":/x", "/etc:", "a:b", "/etc:x", "name:/", "name://", "/etc:/x:nope", "/etc:/x:ro:rw", "/no/such/thing:/x", "./no:/x",
        "/etc:/x:ro,rw", "/etc:/x:ro,rro", "/etc:/x:z,Z", "/etc:/x:O,z", "/etc:/x:O,ro", "/etc:/x:O,rshared", "/etc:/x:O,idmap", "/etc:/x:O,upperdir=/tmp",
        "/etc:/x:upperdir=/a,workdir=/b", "/etc:/x:O,upperdir=/a,upperdir=/b,workdir=/c", "/etc/passwd:/x:O", "/etc:/x:U,U", "/etc:/x:bind,rbind", "/etc:/x:shared,rslave",
        "/etc:/x:dev,nodev", "/etc:/x:exec,noexec", "/etc:/x:suid,nosuid", "v:/x:copy,nocopy", "v:/x:shared", "/etc:/x:idmap=uids=0-1-1", "/etc:/x:idmap=uids=0-1",
        "/etc:/x:idmap=uids=0-1-0;gids=0-1-1", "/etc:/x:idmap=uids=0-1-1;uids=0-1-1", "/etc:/x:idmap=frob",
        "a/b:/x", "a/../../../etc:/x", "-v:/x", "na me:/x", "é:/x", "n" * 256 + ":/x", "relative",
    ],
)
def test_volume_flag_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.parse_volume(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,source=/etc,destination=/x", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind"]}),
        ("type=bind,src=/etc,dst=/x,ro", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "ro"]}),
        ("type=bind,src=/etc,target=/x,readonly=false,bind-nonrecursive", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["bind"]}),
        ("type=bind,src=/etc,dst=/x,bind-propagation=rshared,rw=false", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "ro", "rshared"]}),
        ("src=v,dst=/x", {"type": "volume", "source": "v", "destination": "/x", "options": [], "no_copy": False}),
        ("type=volume,src=v,dst=/x,volume-nocopy,U=true", {"type": "volume", "source": "v", "destination": "/x", "options": ["U"], "no_copy": True}),
        ("type=volume,dst=/x", {"type": "volume", "source": "", "destination": "/x", "options": [], "anonymous": True, "no_copy": False}),
        ("type=volume,src=v,dst=/x,volume-opt=type=tmpfs,volume-opt=o=size=1m,volume-label=a=b,subpath=d/e,ro", {"type": "volume", "source": "v", "destination": "/x", "options": ["ro"], "no_copy": False, "volume_options": {"type": "tmpfs", "o": "size=1m"}, "volume_labels": {"a": "b"}, "subpath": "d/e"}),
        ("type=volume,src=v,dst=/x,volume-driver=local,nocopy,z", {"type": "volume", "source": "v", "destination": "/x", "options": [], "no_copy": True}),
        ("type=bind,src=/etc,dst=/x,relabel=private,suid,dev,noexec,consistency=cached", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "noexec", "dev", "suid"]}),
        ("type=bind,src=/etc,dst=/x,U", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "U"]}),
        ("type=bind,src=/etc,dst=/x,no-dereference", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "copy-symlink"]}),
        ("type=bind,src=/etc,dst=/x,idmap", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind"], "id_map": {}}),
        ("type=bind,src=/etc,dst=/x,idmap=false", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind"]}),
        ("type=image,src=busybox,dst=/x", {"type": "image", "source": "busybox", "destination": "/x", "options": ["ro"]}),
        ("type=image,src=busybox,dst=/x,rw=true,subpath=/bin/,noexec", {"type": "image", "source": "busybox", "destination": "/x", "options": ["noexec"], "subpath": "bin"}),
        ("type=devpts,dst=/dev/pts,uid=5,gid=6,mode=0600,max=7", {"type": "devpts", "source": "devpts", "destination": "/dev/pts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "rprivate", "gid=6", "uid=5", "max=7", "mode=0600"]}),
        ("type=ramfs,dst=/x,tmpfs-mode=700,U=true", {"type": "ramfs", "source": "ramfs", "destination": "/x", "options": [*TMPFS, "mode=700", "U"]}),
        ("type=tmpfs,dst=/x,noswap,rw=false,rslave", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": ["nosuid", "nodev", "tmpcopyup", "noswap", "ro", "rslave"]}),
        ("type=tmpfs,dst=/x", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": TMPFS}),
        ("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700,ro", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": [*TMPFS, "size=1m", "mode=700", "ro"]}),
        ("type=tmpfs,dst=/x,notmpcopyup", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": TMPFS[:-1]}),
    ],
)
def test_mount_flag(text: str, expected: dict[str, Any]) -> None:
    assert mount_flag.parse_all(text) == [expected]


def test_mount_flag_with_a_comma_in_a_path(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert mount_flag.parse_all(f'type=bind,"src={tmp_path}/a,b",dst=/x')[0]["source"] == f"{tmp_path}/a,b"


@pytest.mark.parametrize(
    "text",
    [
        "", "type=bind", "type=bind,src=/etc", "type=bind,dst=/x", "type=bind,src=/no/such,dst=/x", "type=image,dst=/x", "type=volume,src=a/b,dst=/x",
        "type=bind,src=/etc,dst=x", "type=bind,src=/etc,dst=/", "type=bind,src=/etc,dst=/x,ro=maybe", "type=bind,src=/etc,dst=/x,frob",
        "type=image,src=a,dst=/x,frob", "type=image,src=a,dst=/x,ro,rw", "type=image,src=a,dst=/x,subpath=../etc", "type=volume,src=v,dst=/x,subpath=", "type=odd,dst=/x",
        "type=bind,src=/etc,src=/x,dst=/y", "type=bind,src=/etc,dst=/x,volume-opt=a=b", "type=bind,src=/etc,dst=/x,ro,rw", "type=bind,src=/etc,dst=/x,relabel=odd",
        "type=bind,src=/etc,dst=/x,consistency=odd", "type=bind,src=/etc,dst=/x,idmap=frob", "type=bind,src=/etc,dst=/x,subpath=a", "type=volume,src=v,dst=/x,rshared",
        "type=devpts,dst=/x,mode=9", "type=devpts,dst=/x,uid=-1", "type=devpts,dst=/x,frob", "type=devpts", "type=glob,dst=/x", "type=glob,src=/no/such*,dst=/x",
        "type=tmpfs,dst=/x,mode=888", "type=tmpfs,dst=/x,size=big", "type=tmpfs,dst=/x,ro,rw=true", "type=tmpfs,dst=/x,U,uid=5", "type=tmpfs,dst=/x,exec,noexec",
        "type=bind,src=/etc,dst=/x,bind-propagation=odd", "type=tmpfs,src=a,dst=/x", "type=tmpfs,dst=/x,frob=1", 'type=bind,"src=/etc,dst=/x',
    ],
)
def test_mount_flag_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mount_flag.parse_all(text)


@pytest.mark.parametrize(
    ("text", "options"),
    [("/x", TMPFS), ("/x:size=1m,mode=700,ro", [*TMPFS, "size=1m", "mode=700", "ro"]), ("/x:U,notmpcopyup", [*TMPFS[:-1], "U"])],
)
def test_tmpfs_flag(text: str, options: list[str]) -> None:
    assert mounts.parse_tmpfs(text) == {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": options}


@pytest.mark.parametrize("text", ["", "x", "/", "/x:size", "/x:ro=1", "/x:frob"])
def test_tmpfs_flag_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.parse_tmpfs(text)


def test_image_volumes() -> None:
    found = mounts.mounts({"volume": ["v:/data"]}, ["/data", "/cache", "/cache/"])
    assert [(spec["destination"], spec.get("anonymous", False)) for spec in found] == [("/data", False), ("/cache", True)]
    assert [spec["type"] for spec in mounts.mounts({"image_volume": "tmpfs"}, ["/c"])] == ["tmpfs"]
    assert mounts.mounts({"image_volume": "ignore"}, ["/c"]) == []
    with pytest.raises(UsageError, match="duplicate"):
        mounts.mounts({"volume": ["v:/data"], "tmpfs": ["/data/"]}, [])


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "bounding", "added"),
    [
        ([], [], False, set(security.DEFAULT_CAPABILITIES), set()),
        (["net_raw"], ["CHOWN"], False, {*security.DEFAULT_CAPABILITIES, "CAP_NET_RAW"} - {"CAP_CHOWN"}, {"CAP_NET_RAW"}),
        (["CAP_NET_RAW"], ["all"], False, {"CAP_NET_RAW"}, {"CAP_NET_RAW"}),
        (["chown", "CHOWN"], [], False, set(security.DEFAULT_CAPABILITIES), {"CAP_CHOWN"}),
        (["ALL"], ["mknod"], False, set(security.host_capabilities()) - {"CAP_MKNOD"}, set(security.host_capabilities())),
        ([], [], True, set(security.host_capabilities()), set()),
        ([], ["all"], True, set(), set()),
    ],
)
def test_capabilities(add: list[str], drop: list[str], privileged: bool, bounding: set[str], added: set[str]) -> None:
    found, by_name = security.capabilities(add, drop, privileged)
    assert (set(found), set(by_name)) == (bounding, added)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("add", "drop"), [(["fly"], []), ([], ["CAP_"]), (["chown"], ["CAP_CHOWN"]), (["all"], ["ALL"])])
def test_capabilities_refused(add: list[str], drop: list[str]) -> None:
    with pytest.raises(UsageError):
        security.capabilities(add, drop, False)


def test_security_options() -> None:
    found = security.security_options(["no-new-privileges", "seccomp=/p.json", "mask=/a:/b", "unmask=/proc/acpi:/sys/*", "label=disable", "apparmor=unconfined"])
    assert (found.no_new_privileges, found.seccomp, found.mask) == (True, "/p.json", ["/a", "/b"])
    masked, readonly = security.paths_to_hide(found, False)
    assert {"/a", "/b", "/proc/kcore"} <= set(masked)
    assert not {"/proc/acpi", "/sys/firmware", "/sys/dev/block"} & set(masked)
    assert "/proc/sys" in readonly
    assert security.paths_to_hide(found, True) == ([], [])
    assert security.paths_to_hide(security.security_options(["unmask=all", "mask=/a"]), False) == (["/a"], [])
    assert security.security_options(["no-new-privileges:false"]).no_new_privileges is False


@pytest.mark.parametrize(
    ("item", "error"),
    [("frob", UsageError), ("seccomp=", UsageError), ("no-new-privileges=perhaps", UsageError), ("label=type:x", UnsupportedError), ("apparmor=", UsageError)],
)
def test_security_options_refused(item: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        security.security_options([item])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("nofile=10", [("RLIMIT_NOFILE", 10, 10)]), ("NOFILE=10:20", [("RLIMIT_NOFILE", 10, 20)]), ("core=-1", [("RLIMIT_CORE", 2**64 - 1, 2**64 - 1)]),
        ("rlimit_nproc=5:unlimited", [("RLIMIT_NPROC", 5, 2**64 - 1)]), ("host", []),
    ],
)
def test_ulimits(item: str, expected: list[tuple[str, int, int]]) -> None:
    assert [(limit["type"], limit["soft"], limit["hard"]) for limit in security.ulimits([item])] == expected


@pytest.mark.parametrize("item", ["nofile", "nofile=", "nofile=a", "nofile=²", "nofile=1_0", "files=1", "nofile=20:10", "nofile=-1:5", "nofile=1:", "nofile=-2", "cpu=99999999999999999999"])
def test_ulimits_refused(item: str) -> None:
    with pytest.raises(UsageError, match="--ulimit"):
        security.ulimits([item])


def test_sysctls() -> None:
    security.check_sysctls({"net.ipv4.ip_forward": "1", "net/core/somaxconn": "9", "kernel.sem": "1", "fs.mqueue.msg_max": "9"}, "", "private")
    for name, network, ipc in (("net.a", "host", "private"), ("kernel.shmmax", "", "host"), ("vm.swappiness", "", "private"), ("kernel.panic", "", "private")):
        with pytest.raises(UsageError, match="--sysctl"):
            security.check_sysctls({name: "1"}, network, ipc)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/null", ("/dev/null", "/dev/null", "rwm")), ("/dev/null:rw", ("/dev/null", "/dev/null", "rw")),
        ("/dev/null:/dev/x", ("/dev/null", "/dev/x", "rwm")), ("/dev/null:/dev/x:rwm", ("/dev/null", "/dev/x", "rwm")),
    ],
)
def test_devices(text: str, expected: tuple[str, str, str]) -> None:
    assert security.device(text) == expected


@pytest.mark.parametrize("text", ["", "null", "/dev/null:x", "/dev/null:/dev/x:q", "/dev/null:/dev/x:", "/dev/no-such", "/dev/null:/a:rw:m"])
def test_devices_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        security.check_device(text)


def test_device_permissions_that_cannot_be_kept_from_the_container() -> None:
    assert os.access("/dev/null", os.R_OK | os.W_OK)
    for text in ("/dev/null:r", "/dev/null:/dev/x:wm"):
        with pytest.raises(UnsupportedError, match="all the same"):
            security.check_device(text)
