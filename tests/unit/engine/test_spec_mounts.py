"""-v, --mount, --tmpfs, devices, capabilities, --security-opt, --ulimit, --sysctl: tables of good and bad input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rl.engine.spec import mounts, security
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


def test_relative_sources_are_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    for text, source in (("./.hidden:/x", tmp_path / ".hidden"), (".hidden:/x", tmp_path / ".hidden"), (".:/x", tmp_path), ("..:/x", tmp_path.parent)):
        assert mounts.parse_volume(text)["source"] == str(source)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":/x", "/etc:", "a:b", "/etc:x", "name:/", "name://", "/etc:/x:nope", "/etc:/x:ro:rw", "/no/such/thing:/x", "./no:/x",
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
        ("type=bind,src=/etc,dst=/x,bind-propagation=rshared,rw=false", {"type": "bind", "source": "/etc", "destination": "/x", "options": ["rbind", "rshared", "ro"]}),
        ("src=v,dst=/x", {"type": "volume", "source": "v", "destination": "/x", "options": [], "no_copy": False}),
        ("type=volume,src=v,dst=/x,volume-nocopy,U=true", {"type": "volume", "source": "v", "destination": "/x", "options": ["U"], "no_copy": True}),
        ("type=volume,dst=/x", {"type": "volume", "source": "", "destination": "/x", "options": [], "anonymous": True}),
        ("type=tmpfs,dst=/x", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": TMPFS}),
        ("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700,ro", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": [*TMPFS, "size=1m", "mode=700", "ro"]}),
        ("type=tmpfs,dst=/x,notmpcopyup", {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": TMPFS[:-1]}),
    ],
)
def test_mount_flag(text: str, expected: dict[str, Any]) -> None:
    assert mounts.parse_mount(text) == expected


def test_mount_flag_with_a_comma_in_a_path(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert mounts.parse_mount(f'type=bind,"src={tmp_path}/a,b",dst=/x')["source"] == f"{tmp_path}/a,b"


@pytest.mark.parametrize(
    "text",
    [
        "", "type=bind", "type=bind,src=/etc", "type=bind,dst=/x", "type=bind,src=/no/such,dst=/x", "type=image,src=a,dst=/x", "type=volume,src=a/b,dst=/x",
        "type=bind,src=/etc,dst=x", "type=bind,src=/etc,dst=/", "type=bind,src=/etc,dst=/x,ro=maybe", "type=bind,src=/etc,dst=/x,frob",
        "type=bind,src=/etc,dst=/x,bind-propagation=odd", "type=tmpfs,src=a,dst=/x", "type=tmpfs,dst=/x,frob=1", 'type=bind,"src=/etc,dst=/x',
    ],
)
def test_mount_flag_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.parse_mount(text)


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
