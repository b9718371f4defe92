"""/dev of containers made by real root, by an ordinary user and in a user's shared namespace."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from rl.errors import RlError
from rl.kernel import process as kp
from rl.runtime import devices
from unit.runtime.container_lab import Lab, read_until
from unit.runtime.mount_lab import UserLab, give, labs, mountinfo, sh

SHOW = "cat /proc/self/mountinfo"
NODES = ("null", "zero", "full", "random", "urandom", "tty")


@pytest.fixture(params=["root", "user", "shared"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from labs(request.param)


@pytest.fixture
def root_lab() -> Iterator[Lab]:
    yield from labs("root")


@pytest.fixture(params=["user", "shared"])
def user_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from labs(request.param)


def device(path: str, kind: str = "c", major: int = 1, minor: int = 7, **more: Any) -> dict[str, Any]:
    numbers = {} if kind == "p" else {"major": major, "minor": minor}
    return {"path": path, "type": kind, **numbers, **more}


def output(lab: Lab, spec: dict[str, Any] | str, **named: Any) -> str:
    result = lab.run(spec, **named)
    assert result.error is None, (result.error.message, result.error.hint)
    return result.output


def without_dev(spec: dict[str, Any]) -> dict[str, Any]:
    """The container with /dev of the image, no file system of its own there."""
    spec["mounts"] = [entry for entry in spec["mounts"] if not entry["destination"].startswith("/dev")]
    return spec


def test_default_devices_and_links(lab: Lab) -> None:
    script = (
        "cd /dev; stat -c '%n %t:%T %F' null zero full random urandom tty; head -c 3 zero | wc -c; echo a > full;"
        "for l in fd stdin stdout stderr core ptmx; do readlink $l; done; echo via | cat /dev/stdin; " + SHOW
    )
    text = output(lab, script)
    for name, (major, minor) in devices.DEFAULT_NODES.items():
        assert f"{name} {major:x}:{minor:x} character special file\n" in text
    assert "\n3\n" in text and "No space left" in text and "\nvia\n" in text
    links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore\npts/ptmx\n"
    assert links in text
    bound = {point for point in mountinfo(text) if point.removeprefix("/dev/") in NODES}
    assert bound == ({f"/dev/{name}" for name in NODES} if isinstance(lab, UserLab) else set())


def test_root_makes_nodes_as_asked(root_lab: Lab) -> None:
    spec = sh("cd /dev; stat -c '%n %F %t:%T %a %u:%g' char unbuffered block fifo full deep/node plain")
    spec["linux"]["devices"] = [
        device("/dev/char", fileMode=0o620, uid=7, gid=9), device("/dev/unbuffered", "u", fileMode=0o604),
        device("/dev/block", "b", 7, 5, fileMode=0o660), device("/dev/fifo", "p", fileMode=0o640, uid=3),
        device("/dev/full", fileMode=0o600), device("/dev/deep/node", fileMode=0o666), device("/dev/plain"),
    ]
    mask = os.umask(0o077)
    try:
        lines = output(root_lab, spec).splitlines()
    finally:
        os.umask(mask)
    assert lines == [
        "char character special file 1:7 620 7:9", "unbuffered character special file 1:7 604 0:0",
        "block block special file 7:5 660 0:0", "fifo fifo 0:0 640 3:0", "full character special file 1:7 600 0:0",
        "deep/node character special file 1:7 666 0:0", "plain character special file 1:7 666 0:0",
    ]


def test_root_without_mknod_binds(root_lab: Lab) -> None:
    """An outer container took CAP_MKNOD: then as in a user namespace."""

    def drop(spec: dict[str, Any]) -> None:
        effective, permitted, inheritable = kp.capget()
        mknod = 1 << 27
        kp.capset(effective & ~mknod, permitted & ~mknod, inheritable)

    spec = sh(f"echo a > /dev/full; {SHOW}")
    spec["linux"]["devices"] = [device("/dev/other")]
    text = output(root_lab, spec, inside=drop)
    assert "No space left" in text and {"/dev/null", "/dev/full", "/dev/other"} <= set(mountinfo(text))


def test_a_user_gets_the_hosts_nodes(user_lab: Lab) -> None:
    """Owner and mode are the host's: those of the config cannot be had, as with runc. A fifo is made."""
    spec = sh("cd /dev; stat -c '%F %t:%T %a' mine deep/er; stat -c '%n %F %a' fifo; echo a > mine")
    spec["linux"]["devices"] = [
        device("/dev/mine", fileMode=0o600), device("/dev/deep/er", "u"), device("/dev/fifo", "p", fileMode=0o640),
    ]
    text = output(user_lab, spec)
    host = f"{stat.S_IMODE(os.stat('/dev/full').st_mode):o}"
    assert text.startswith(f"character special file 1:7 {host}\n" * 2 + "fifo fifo 640\n") and "No space left" in text


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (device("/dev/none", "c", 300, 1), "/dev/none: No such file"),
        (device("/dev/zero", "c", 300, 1), "is 1:5 here, not 300:1"),
    ],
)
def test_a_node_the_host_does_not_have(user_lab: Lab, entry: dict[str, Any], text: str) -> None:
    spec = sh("true")
    spec["linux"]["devices"] = [entry]
    found = user_lab.run(spec).error
    assert found is not None and text in found.message, found


def test_what_is_there_already(lab: Lab) -> None:
    """A container started twice finds its own; anything else in the place of a device is an error, as specified."""
    spec = without_dev(sh("[ -c /dev/full ] && [ -p /dev/fifo ] && [ -c /dev/empty ] && echo both; " + SHOW))
    (lab.root / "dev/empty").write_text("")
    spec["linux"]["devices"] = [device("/dev/fifo", "p"), device("/dev/empty")]
    if isinstance(lab, UserLab):
        give(lab.root, lab.user)
    for _ in range(2):
        assert output(lab, spec).startswith("both\n")
    (lab.root / "dev/taken").write_text("content")
    (lab.root / "dev/link").symlink_to("null")
    (lab.root / "dev/directory").mkdir()
    for name in ("taken", "link", "directory"):
        spec["linux"]["devices"] = [device(f"/dev/{name}")]
        found = lab.run(spec).error
        assert found is not None and f"/dev/{name}: there is something else" in found.message and found.hint


def test_an_image_with_a_wrong_ptmx(lab: Lab) -> None:
    (lab.root / "dev/ptmx").write_text("")
    (lab.root / "dev/fd").symlink_to("/proc/self/fd")
    if isinstance(lab, UserLab):
        give(lab.root, lab.user)
    assert output(lab, without_dev(sh("readlink /dev/ptmx; readlink /dev/fd"))) == "pts/ptmx\n/proc/self/fd\n"


def test_a_ptmx_that_was_asked_for(lab: Lab) -> None:
    (lab.bundle / "mine").write_text("mine\n")
    spec = sh("stat -c '%t:%T %F' /dev/ptmx")
    spec["linux"]["devices"] = [device("/dev/ptmx", "c", 5, 2)]
    assert output(lab, spec) == "5:2 character special file\n"
    spec = sh("cat /dev/ptmx")
    spec["mounts"].append({"destination": "/dev/ptmx", "type": "bind", "source": "mine", "options": ["bind"]})
    assert output(lab, spec) == "mine\n"


def test_the_directory_of_a_device_stays_inside(lab: Lab) -> None:
    name = f"rl-test-{os.getpid()}"
    (lab.root / "out").symlink_to("../../../../../../../../tmp")
    spec = sh(f"[ -c /tmp/{name} ] && echo inside")
    spec["linux"]["devices"] = [device(f"/out/{name}")]
    assert output(lab, spec) == "inside\n"
    assert not os.path.lexists(f"/tmp/{name}")


def test_the_hosts_dev_is_left_alone(lab: Lab) -> None:
    host = lab.bundle / "hostdev"
    host.mkdir()
    spec = without_dev(sh("ls -A /dev | wc -l"))
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "hostdev", "options": ["rbind"]})
    assert output(lab, spec) == "0\n" and not list(host.iterdir())


@pytest.mark.parametrize("console", ["", "/proc/version", "/tmp/console", "nowhere"])
def test_console(lab: Lab, console: str) -> None:
    """The terminal, opened on the container's own devpts, covers what the image has as /dev/console (CVE-2025-52565)."""

    def talk(master: int) -> bytes:
        return read_until(master, b"END")

    script = "tty; for f in /dev/console /dev/pts/0; do echo $(($(printf %d 0x$(stat -Lc %t $f)))):$(stat -Lc %T $f); done"
    spec = sh(f"{script} | tr '\\n' ' '; cat /proc/version; {SHOW}; echo END")
    spec["process"]["terminal"] = True
    if console:
        spec["mounts"] = [entry for entry in spec["mounts"] if entry["destination"] != "/dev"]
        for name in ("pts", "shm", "mqueue"):
            (lab.root / "dev" / name).mkdir()
        (lab.root / "dev/console").symlink_to(console)
        if isinstance(lab, UserLab):
            give(lab.root, lab.user)
    result = lab.run(spec, talk=talk)
    assert result.error is None, result.error
    text = result.output.replace("\r\n", "\n")
    assert text.startswith("/dev/pts/0\n136:0 136:0 Linux version")
    assert mountinfo(text)["/dev/console"][1] == "devpts" and "/proc/version" not in mountinfo(text)
    assert not (lab.root / "tmp/console").exists()


def test_only_the_real_null_is_taken(root_lab: Lab) -> None:
    """The caller's /dev/null is looked at before anything is hidden behind it."""
    with pytest.raises(RlError, match="not a device node"):
        devices._open_node("/etc/passwd", 1, 3)
    with pytest.raises(RlError, match="is 1:5 here"):
        devices._open_node("/dev/zero", 1, 3)
    fd = devices._open_node("/dev/null", 1, 3)
    assert os.fstat(fd).st_rdev == os.makedev(1, 3)
    os.close(fd)
