"""The OCI specification made of a container's record; volumes; the trace's documents."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine import oci, trace, volumes
from rl.engine.spec import security
from rl.engine.volume import records
from rl.errors import RlError
from rl.storage import trash


def config(**more: Any) -> Any:
    return {
        "id": "ab" * 32, "name": "web", "command": ["nginx", "-g"], "env": ["PATH=/bin"], "workdir": "/w", "hostname": "h1", "umask": "0022", "timezone": "",
        "terminal": False, "init": False, "options": {}, "ulimits": [], "cap_add": [], "cap_drop": [], "privileged": False, "security_opt": [], "sysctl": {},
        "uid_map": [], "gid_map": [], "pid_mode": "private", "ipc_mode": "private", "uts_mode": "private", "cgroupns_mode": "private", "mounts": [],
        "read_only": False, "read_only_tmpfs": True, "shm_size": 65536, "devices": [], "annotations": {}, "stop_signal": 15, **more,
    }


def context(**more: Any) -> oci.Context:
    made = oci.Context()
    made.rootfs = "/rootfs"
    for key, value in more.items():
        setattr(made, key, value)
    return made


def spec(cfg: Any = None, ctx: oci.Context | None = None) -> dict[str, Any]:
    return json.loads(json.dumps(oci.specification(cfg or config(), ctx or context())))  # type: ignore[no-any-return]


def kinds(document: dict[str, Any]) -> dict[str, str]:
    found = {entry["type"]: entry.get("path", "") for entry in document["linux"]["namespaces"]}
    assert len(found) == len(document["linux"]["namespaces"])
    return found


def mounts(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {entry["destination"]: entry for entry in document["mounts"]}
    assert len(found) == len(document["mounts"])
    return found


def test_plain() -> None:
    found = spec(ctx=context(uid=5, gid=6, additional_gids=[7], home="/home/x"))
    assert found["root"] == {"path": "/rootfs", "readonly": False}
    assert found["hostname"] == "h1"
    assert found["process"]["args"] == ["nginx", "-g"]
    assert found["process"]["cwd"] == "/w"
    assert found["process"]["user"] == {"uid": 5, "gid": 6, "umask": 0o22, "additionalGids": [7]}
    assert found["process"]["env"] == ["PATH=/bin", "HOSTNAME=h1", "HOME=/home/x"]
    assert not found["process"]["noNewPrivileges"]
    assert not {"rlimits", "oomScoreAdj"} & set(found["process"])
    assert not {"uidMappings", "gidMappings", "sysctl", "resources", "seccomp", "cgroupsPath"} & set(found["linux"])
    assert "/proc/kcore" in found["linux"]["maskedPaths"]
    assert "/proc/sys" in found["linux"]["readonlyPaths"]
    assert found["annotations"]["org.opencontainers.image.stopSignal"] == "15"


def test_process() -> None:
    cfg = config(env=["HOME=/h", "HOSTNAME=x"], umask="0077", ulimits=["nofile=5:6"], options={"oom_score_adj": "7"}, security_opt=["no-new-privileges", "apparmor=strict"])
    found = spec(cfg)["process"]
    assert found["env"] == ["HOME=/h", "HOSTNAME=x"]
    assert found["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]
    assert (found["user"]["umask"], found["oomScoreAdj"], found["noNewPrivileges"]) == (0o77, 7, True)
    assert found["apparmorProfile"] == "strict" and "apparmorProfile" not in spec(config())["process"]


def test_linux() -> None:
    found = spec(config(sysctl={"net.a": "1"}), context(resources={"pids": {"limit": 1}}, cgroup_path="/c", seccomp={"defaultAction": "SCMP_ACT_ALLOW"}))["linux"]
    assert (found["sysctl"], found["resources"], found["cgroupsPath"]) == ({"net.a": "1"}, {"pids": {"limit": 1}}, "/c")
    assert found["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    ("uid", "more", "bounding", "effective", "ambient"),
    [
        (0, {}, set(security.DEFAULT_CAPABILITIES), set(security.DEFAULT_CAPABILITIES), set()),
        (1, {}, set(security.DEFAULT_CAPABILITIES), set(), set()),
        (1, {"cap_add": ["NET_RAW"]}, {*security.DEFAULT_CAPABILITIES, "CAP_NET_RAW"}, {"CAP_NET_RAW"}, {"CAP_NET_RAW"}),
        (0, {"cap_drop": ["all"], "cap_add": ["CHOWN"]}, {"CAP_CHOWN"}, {"CAP_CHOWN"}, set()),
        (0, {"privileged": True}, set(security.host_capabilities()), set(security.host_capabilities()), set()),
        (1, {"privileged": True}, set(security.host_capabilities()), set(), set()),
        (1, {"cap_add": ["all"], "cap_drop": ["mknod"]}, set(security.host_capabilities()) - {"CAP_MKNOD"}, set(security.host_capabilities()) - {"CAP_MKNOD"}, set(security.host_capabilities()) - {"CAP_MKNOD"}),
    ],
    ids=["root", "user", "user with one", "root with one", "privileged", "privileged user", "all but one"],
)
def test_capabilities(uid: int, more: dict[str, Any], bounding: set[str], effective: set[str], ambient: set[str]) -> None:
    sets = {name: set(value) for name, value in spec(config(**more), context(uid=uid))["process"]["capabilities"].items()}
    assert sets == {"bounding": bounding, "effective": effective, "permitted": effective, "inheritable": ambient, "ambient": ambient}


def test_namespaces() -> None:
    assert kinds(spec()) == dict.fromkeys(("mount", "pid", "ipc", "uts", "cgroup"), "")
    host = spec(config(pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host"))
    assert kinds(host) == {"mount": ""}
    assert "hostname" not in host
    joined = spec(config(pid_mode="container:x"), context(namespaces={"network": "/n", "pid": "/p", "user": "/u"}))
    assert kinds(joined) == {"mount": "", "network": "/n", "pid": "/p", "user": "/u", "ipc": "", "uts": "", "cgroup": ""}


def test_user_namespace() -> None:
    found = spec(config(uid_map=[(0, 1, 5), (5, 0, 1)], gid_map=[(0, 1, 9)]))["linux"]
    assert found["uidMappings"] == [{"containerID": 0, "hostID": 1, "size": 5}, {"containerID": 5, "hostID": 0, "size": 1}]
    assert found["gidMappings"] == [{"containerID": 0, "hostID": 1, "size": 9}]


def test_standard_mounts() -> None:
    found = mounts(spec())
    assert list(found)[:2] == ["/proc", "/dev"]
    assert {"/sys", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"} < set(found)
    assert "size=65536" in found["/dev/shm"]["options"]
    assert "gid=5" in found["/dev/pts"]["options"]
    assert "ro" in found["/sys"]["options"]
    assert "gid=5" not in mounts(spec(ctx=context(id_mode="single")))["/dev/pts"]["options"]
    assert "/dev/shm" not in mounts(spec(config(ipc_mode="none")))
    host = mounts(spec(config(pid_mode="host", ipc_mode="host")))
    assert host["/proc"]["type"] == "bind"
    assert all(host[path]["type"] == "bind" for path in ("/dev/shm", "/dev/mqueue") if path in host)
    assert {"/run", "/tmp", "/var/tmp"} < set(mounts(spec(config(read_only=True))))
    assert "/tmp" not in mounts(spec(config(read_only=True, read_only_tmpfs=False)))
    assert "rw" in mounts(spec(config(privileged=True)))["/sys"]["options"]


def test_requested_mounts_come_last_and_parents_first() -> None:
    asked = [
        {"type": "bind", "source": "/a", "destination": "/x/y/z", "options": ["rbind", "ro"]},
        {"type": "volume", "source": "v", "destination": "/x/y", "options": ["U"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/x", "options": ["nosuid", "U"]},
        {"type": "bind", "source": "/b", "destination": "/etc/hosts", "options": ["rbind", "rslave"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/dev/shm", "options": ["size=1m"]},
    ]
    document = spec(config(mounts=asked), context(volumes={"/x/y": "/vol/_data"}, binds=[("/h", "/etc/hosts"), ("/r", "/etc/resolv.conf")], uid=3, gid=4))
    found = mounts(document)  # no destination twice: what was asked for wins
    order = list(found)
    assert order.index("/dev") < order.index("/x") < order.index("/x/y") < order.index("/x/y/z")
    assert order.index("/etc/resolv.conf") < order.index("/x")
    assert found["/x"]["options"] == ["nosuid", "uid=3", "gid=4"]
    assert found["/x/y"] == {"destination": "/x/y", "type": "bind", "source": "/vol/_data", "options": ["rbind", "nosuid", "nodev", "rprivate"]}
    assert found["/x/y/z"]["options"] == ["nosuid", "nodev", "rbind", "ro", "rprivate"]
    assert (found["/etc/hosts"]["source"], found["/etc/hosts"]["options"]) == ("/b", ["nosuid", "nodev", "rbind", "rslave"])
    assert found["/dev/shm"]["options"] == ["size=1m"]


def test_init_and_devices() -> None:
    document = spec(config(init=True, options={"init_path": "/usr/bin/tini"}, devices=["/dev/null:/dev/mine"]))
    assert document["process"]["args"] == ["/run/rl-init", "--", "nginx", "-g"]
    found = mounts(document)
    assert found["/run/rl-init"]["source"] == "/usr/bin/tini"
    assert (found["/dev/mine"]["source"], found["/dev/mine"]["type"]) == ("/dev/null", "bind")


def test_privileged() -> None:
    document = spec(config(privileged=True, devices=["/dev/null:/dev/fuse"]))
    assert (document["linux"]["maskedPaths"], document["linux"]["readonlyPaths"]) == ([], [])
    for path, entry in mounts(document).items():
        if entry["type"] == "bind":
            assert os.access(entry["source"], os.R_OK), path
    assert mounts(document)["/dev/fuse"]["source"] == "/dev/null"


# volumes


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    made.ensure()
    return made


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "data/sub").mkdir(parents=True)
    (root / "data/sub/file").write_text("from the image")
    (root / "data/link").symlink_to("/etc/passwd")
    (root / "data").chmod(0o1777)
    (root / "away").symlink_to("/data")
    return root


def with_volume(destination: str = "/data", **more: Any) -> Any:
    mine = {"uid_map": [(0, os.getuid(), 1)], "gid_map": [(0, os.getgid(), 1)]}  # a monitor is root of its namespace
    return config(mounts=[{"type": "volume", "source": "v", "destination": destination, "options": [], **more}], **mine)


def prepare(paths: Paths, rootfs: Path, destination: str = "/data", **more: Any) -> dict[str, str]:
    return volumes.prepare(paths, with_volume(destination, **more), str(rootfs), (os.getuid(), os.getgid()))


def made(paths: Paths) -> str:
    """An empty volume v."""
    assert records.make(paths, "v", records.fresh())
    return records.data(paths, "v")


def test_a_new_volume_is_like_the_image(paths: Paths, rootfs: Path) -> None:
    data = Path(prepare(paths, rootfs)["/data"])
    assert (data / "sub/file").read_text() == "from the image"
    assert os.readlink(data / "link") == "/etc/passwd"
    assert data.stat().st_mode & 0o7777 == 0o1777
    record = json.loads((data.parent / "volume.json").read_text())
    assert (record["Driver"], record["Anonymous"]) == ("local", False)
    assert sorted(os.listdir(data.parent)) == ["_data", "used", "volume.json"]


def test_what_is_in_a_volume_stays(paths: Paths, rootfs: Path) -> None:
    data = Path(prepare(paths, rootfs)["/data"])
    (data / "sub/file").write_text("mine")
    (data / "link").unlink()
    prepare(paths, rootfs)
    assert (data / "sub/file").read_text() == "mine"
    assert not (data / "link").is_symlink()


@pytest.mark.parametrize(("destination", "more", "expected"), [("/none", {}, []), ("/data", {"no_copy": True}, []), ("/away", {}, ["link", "sub"]), ("/data/sub/file", {}, [])])
def test_what_is_copied(paths: Paths, rootfs: Path, destination: str, more: dict[str, Any], expected: list[str]) -> None:
    data = prepare(paths, rootfs, destination, **more)[destination]
    assert sorted(os.listdir(data)) == expected
    if more:
        assert os.stat(data).st_mode & 0o7777 == 0o1777


def test_the_image_cannot_lead_out_of_itself(paths: Paths, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("host")
    (rootfs / "trap").symlink_to(f"../../../..{tmp_path}/secret")
    assert os.listdir(prepare(paths, rootfs, "/trap")["/trap"]) == []


def test_a_killed_copy_is_begun_afresh(paths: Paths, rootfs: Path) -> None:
    data = made(paths)
    Path(data, "half").write_text("a part")
    Path(data).parent.joinpath("filling").touch()
    prepare(paths, rootfs)
    assert sorted(os.listdir(data)) == ["link", "sub"]
    assert sorted(os.listdir(Path(data).parent)) == ["_data", "used", "volume.json"]


def test_a_half_made_volume_is_completed(paths: Paths, rootfs: Path) -> None:
    os.mkdir(f"{paths.volumes}/v")
    data = prepare(paths, rootfs)["/data"]
    assert sorted(os.listdir(data)) == ["link", "sub"]
    os.unlink(f"{paths.volumes}/v/volume.json")
    assert prepare(paths, rootfs)["/data"] == data
    assert os.path.exists(f"{paths.volumes}/v/volume.json")


def test_a_volume_is_filled_once(paths: Paths, rootfs: Path) -> None:
    """What a container has emptied stays empty; the marks tell."""
    data = prepare(paths, rootfs)["/data"]
    trash.remove_contents(data)
    assert os.listdir(prepare(paths, rootfs)["/data"]) == []
    assert records.has_mark(paths, "v", records.USED) and not records.has_mark(paths, "v", records.FILLING)


def test_containers_that_start_together_fill_a_volume_once(paths: Paths, rootfs: Path) -> None:
    for number in range(200):
        (rootfs / f"data/{number}").write_text("x" * 1000)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def start() -> None:
        barrier.wait()
        data = prepare(paths, rootfs)["/data"]
        os._exit(0 if len(os.listdir(data)) == 202 else 1)

    workers = [fork.Process(target=start) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_a_copy_that_fails_leaves_an_empty_volume(paths: Paths, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_FSIZE stands for the full disk: the copy of the second file fails in the kernel."""
    (rootfs / "data/big").write_bytes(b"x" * 100_000)
    child = os.fork()
    if child == 0:
        import resource
        import signal

        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            prepare(paths, rootfs)
        except RlError as error:
            os._exit(7 if "copy /data" in error.message else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert os.listdir(f"{paths.volumes}/v/_data") == []
    data = prepare(paths, rootfs)["/data"]
    assert os.path.getsize(f"{data}/big") == 100_000


# trace


def test_trace_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trace.Trace()
    began = time.monotonic_ns()
    assert 0 <= began - made.begin < 10**9
    made.step("plan", began)
    made.add("mount", began + 2_000_000, began + 5_500_000, 4242)
    trace.report(made, {"trace": True, "trace_file": str(tmp_path / "t.json")})
    document = json.loads((tmp_path / "t.json").read_text())
    complete = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["pid"]) for event in complete] == [("plan", os.getpid()), ("mount", 4242)]
    assert complete[1]["dur"] == 3500
    assert complete[1]["ts"] == (began + 2_000_000) / 1000
    named = {event["pid"]: event["args"]["name"] for event in document["traceEvents"] if event["ph"] == "M"}
    assert named == {os.getpid(): "rl run", 4242: "monitor"}
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith("plan")
    assert "3.5  mount  (monitor)" in lines[2]
    assert lines[-1].endswith("until the command ran")
    with pytest.raises(RlError, match="--trace-file"):
        trace.report(made, {"trace_file": str(tmp_path / "no/t.json")})


def test_no_trace_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    trace.report(trace.Trace(), {})
    assert capsys.readouterr().err == ""
