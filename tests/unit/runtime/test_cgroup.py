"""cgroup v2 on a file system of our own, and the translation of OCI resources."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.errors import StateError, UnsupportedError, UsageError
from rl.kernel import mount, namespaces
from rl.runtime import cgroup
from rl.runtime.cgroup import cgroupfs
from rl.runtime.cgroup.limits import settings, weight_of_shares

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting cgroup2 in a mount namespace of its own takes root")


def in_own_cgroup(tmp_path: Path, test: Callable[[str], None]) -> None:
    """Run *test* in a child that sits alone in a new cgroup, with cgroup2 mounted below *tmp_path*; leaves nothing."""
    root = str(tmp_path)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        home = own = ""
        report = b"no cgroup2 file system can be mounted here"
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
            mount.mount("cgroup2", root, "cgroup2", 0)
            home = root + cgroup.own_path().rstrip("/")
            own = f"{home}/rl-test-{os.getpid()}"
            os.mkdir(own)
            cgroup.write(f"{own}/cgroup.procs", "0")
            try:
                test(root)
                report = b""
            except BaseException:
                report = traceback.format_exc().encode()
        finally:
            try:
                for line in cgroup.Cgroup(own).pids() if own else []:
                    cgroup.write(f"{home}/cgroup.procs", str(line))
                if own:
                    cgroup.Cgroup(own).remove()
            finally:
                os.write(write_end, report)
                os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        report = pipe.read().decode()
    os.waitpid(pid, 0)
    if report.startswith("no cgroup2"):
        pytest.skip(report)
    assert not report, report


def sleeper(group: cgroup.Cgroup) -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    cgroup.write(group.procs_path, str(pid))
    return pid


@needs_root
def test_life_of_a_cgroup(tmp_path: Path) -> None:
    def life(root: str) -> None:
        support = cgroup.detect(root)
        assert support.mode == "cgroupfs" and support.base == root + support.own
        group = cgroup.create(support, "abc")
        assert group.path == f"{support.base}/rl-abc"
        first = sleeper(group)
        below = cgroup.Cgroup(f"{group.path}/below")
        os.mkdir(below.path)
        second = sleeper(below)
        assert sorted(group.pids()) == sorted([first, second])
        with pytest.raises(StateError, match="holds processes"):
            cgroup.create(support, "abc")
        group.freeze()
        deadline = time.monotonic() + 5  # the kernel tells the group before it tells the one below
        while "frozen 1" not in cgroup.read(f"{below.path}/cgroup.events"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        group.thaw()
        with pytest.raises(StateError, match="still holds processes"):
            group.remove(timeout=0.02)
        group.kill()
        assert {os.waitpid(first, 0)[1], os.waitpid(second, 0)[1]} == {9}
        group.remove()
        assert not os.path.exists(group.path)
        group.remove()
        group.kill()
        assert group.pids() == [] and group.oom_kills() == 0

    in_own_cgroup(tmp_path, life)


@needs_root
def test_kill_without_cgroup_kill(tmp_path: Path) -> None:
    def kill(root: str) -> None:
        group = cgroup.create(cgroup.detect(root), "old")
        children = [sleeper(group) for _ in range(3)]
        group._kill_one_by_one()
        assert [os.waitpid(pid, 0)[1] for pid in children] == [9, 9, 9]
        group.remove()

    in_own_cgroup(tmp_path, kill)


@needs_root
def test_processes_step_aside_within_their_own_cgroup(tmp_path: Path) -> None:
    def aside(root: str) -> None:
        before = cgroup.detect(root)
        cgroup.step_aside(before.base, cgroup.LEAF)
        assert cgroup.read(f"{before.base}/cgroup.procs") == ""
        after = cgroup.detect(root)
        assert after.own == f"{before.own}/{cgroup.LEAF}" and after.base == before.base
        group = cgroup.create(after, "beside", parent="some/where")
        assert group.path == f"{before.base}/some/where/rl-beside"

    in_own_cgroup(tmp_path, aside)


@needs_root
def test_limits_the_kernel_takes_and_those_it_does_not_have(tmp_path: Path) -> None:
    def limits(root: str) -> None:
        support = cgroup.detect(root)
        group = cgroup.create(support, "limited", parent=support.own)
        failed = group.apply({"unified": {"cgroup.max.depth": "3"}, "memory": {"swappiness": 10, "limit": 1 << 26}})
        assert cgroup.read(f"{group.path}/cgroup.max.depth") == "3\n"
        assert "memory swappiness 10: cgroup v2 has no such setting" in failed
        if "memory" in support.controllers:
            assert cgroup.read(f"{group.path}/memory.max") == f"{1 << 26}\n"
        else:
            assert failed[0] == "memory limit 64 MiB: controller memory is not available"
        (wrong,) = group.apply({"unified": {"cgroup.max.depth": "deep"}})
        assert "Invalid argument" in wrong

    in_own_cgroup(tmp_path, limits)


@needs_root
def test_a_limit_of_the_kernel_s(tmp_path: Path) -> None:
    """Huge pages are the controller that hybrid hosts leave to version 2, once somebody has enabled it at the root."""

    def limit(root: str) -> None:
        support = cgroup.detect(root)
        group = cgroup.create(support, "huge")
        failed = group.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})
        if "hugetlb" in support.controllers:
            assert failed == [] and cgroup.read(f"{group.path}/hugetlb.2MB.max") == f"{4 << 20}\n"
            assert group.stats()["hugetlb"]["2MB"]["usage"] == 0
            assert group.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}) == []
            assert cgroup.read(f"{group.path}/hugetlb.2MB.max") == "max\n"
            assert "no hugetlb.3MB.max" in group.apply({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})[0]
        else:
            assert failed == ["huge page limit (2MB): controller hugetlb is not available"]

    in_own_cgroup(tmp_path, limit)


def test_detect_says_why_not(tmp_path: Path) -> None:
    support = cgroup.detect(str(tmp_path))
    assert support.mode == "none" and "no cgroup file system" in support.reason and "mount" in support.hint
    (tmp_path / "memory").mkdir()
    support = cgroup.detect(str(tmp_path))
    assert support.mode == "none" and "cgroup v1" in support.reason and "unified_cgroup_hierarchy" in support.hint
    assert cgroup.unmet(support, {"memory": {"limit": 1 << 20, "swap": -1}, "pids": {"limit": -1}}) == [
        f"memory limit 1 MiB: {support.reason}"
    ]
    with pytest.raises(UnsupportedError, match="cgroup v1"):
        cgroup.create(support, "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_detect_not_delegated(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    own = tmp_path / cgroup.own_path().strip("/")
    own.mkdir(parents=True, exist_ok=True)
    own.chmod(0o500)
    support = cgroup.detect(str(tmp_path))
    own.chmod(0o700)
    assert support.mode == "none" and "is not delegated to uid" in support.reason and support.hint


def files(resources: dict[str, Any]) -> list[tuple[str, str]]:
    return [(setting.file, setting.value) for setting in settings(resources)]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, []),
        ({"memory": {"limit": 100, "swap": 300, "reservation": 50}},
         [("memory.max", "100"), ("memory.swap.max", "200"), ("memory.low", "50")]),
        ({"memory": {"limit": 100, "swap": 0, "reservation": 0}}, [("memory.max", "100"), ("memory.low", "0")]),
        ({"memory": {"limit": 100, "swap": 100}}, [("memory.max", "100"), ("memory.swap.max", "0")]),
        ({"memory": {"limit": -1, "swap": -1}}, [("memory.max", "max"), ("memory.swap.max", "max")]),
        ({"cpu": {"quota": 50000, "period": 100000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"quota": 50000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"period": 5000}}, [("cpu.max", "max 5000")]),
        ({"cpu": {"quota": -1, "period": 5000}}, [("cpu.max", "max 5000")]),
        ({"cpu": {"shares": 1024, "cpus": "0-1", "mems": "0", "burst": 5, "idle": 1}},
         [("cpu.weight", "100"), ("cpu.max.burst", "5"), ("cpu.idle", "1"), ("cpuset.cpus", "0-1"),
          ("cpuset.mems", "0")]),
        ({"cpu": {"shares": 0}}, []),
        ({"pids": {"limit": 7}}, [("pids.max", "7")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                      "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}},
         [("io.bfq.weight", "default 500"), ("io.max", "8:0 rbps=1000"), ("io.max", "8:16 wiops=max")]),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}, [("io.bfq.weight", "8:0 10")]),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}, [("hugetlb.2MB.max", "4096")]),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}},
         [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10")]),
        ({"unified": {"memory.high": "1000"}, "pids": {"limit": 1}}, [("pids.max", "1"), ("memory.high", "1000")]),
        ({"devices": [{"allow": False}]}, []),
    ],
)  # fmt: skip
def test_translation(resources: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert files(resources) == expected


def test_translation_of_what_version_2_does_not_have() -> None:
    memory = {"kernel": 1, "disableOOMKiller": True}
    asked = {"memory": memory, "cpu": {"realtimeRuntime": 1}, "network": {"classID": 4}}
    assert [bool(setting.problem) for setting in settings(asked)] == [True] * 4


@pytest.mark.parametrize(
    "wrong",
    [{"memory": {"swap": 100}}, {"memory": {"limit": 100, "swap": 50}}, {"unified": {"../cgroup.procs": "1"}},
     {"unified": {"memory": "1"}}],
)  # fmt: skip
def test_contradictions(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        settings(wrong)


def test_io_weight_without_bfq(tmp_path: Path) -> None:
    """The kernel of a test machine seldom has the io controller; the order of writes shows on plain files."""
    (tmp_path / "io.weight").write_text("")
    assert cgroup.Cgroup(str(tmp_path)).apply({"blockIO": {"weight": 1000}}) == []
    assert (tmp_path / "io.weight").read_text() == "default 10000"


def test_weight_of_shares() -> None:
    assert [weight_of_shares(shares) for shares in (1, 2, 1024, 262144, 10**6)] == [1, 1, 100, 10000, 10000]
    weights = [weight_of_shares(shares) for shares in range(2, 5000)]
    assert weights == sorted(weights)


# --- managers ----------------------------------------------------------------------------------------


@needs_root
def test_the_plain_manager(tmp_path: Path) -> None:
    """A path of config.json, from the root or below the caller's own; a process that was born elsewhere."""

    def plain(root: str) -> None:
        support = cgroup.detect(root)
        manager = cgroupfs.Cgroupfs(support.base, "engine/one", movable=True)
        manager.prepare()
        assert os.path.isdir(manager.path) and manager.procs_path == f"{support.base}/engine/one/cgroup.procs"
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        manager.attach(pid)
        assert cgroup.own_path(str(pid)) == f"{support.own}/engine/one"
        assert manager.apply({"unified": {"cgroup.max.depth": "3"}}) == []
        with pytest.raises(StateError, match="holds processes"):
            cgroupfs.Cgroupfs(support.base, "engine/one").prepare()
        group = cgroup.Cgroup(manager.path)
        assert group.stats()["cpu"]["usage"]["total"] >= 0
        group.kill()
        os.waitpid(pid, 0)
        group.remove()
        cgroup.Cgroup(f"{support.base}/engine").remove()

    in_own_cgroup(tmp_path, plain)


def test_the_disabled_manager() -> None:
    manager = cgroup.manager("disabled", "/any/where", "x")
    manager.prepare()
    manager.attach(os.getpid())
    assert (manager.kind, manager.path, manager.procs_path) == ("disabled", "", "")
    (refused,) = manager.apply({"pids": {"limit": 3}, "memory": {"limit": -1}})
    assert refused == "pids limit 3: the cgroup manager is disabled"


@pytest.mark.skipif(os.path.exists("/sys/fs/cgroup/cgroup.controllers"), reason="this host has cgroup v2 alone")
@pytest.mark.parametrize("kind", ["systemd", "cgroupfs"])
def test_managers_where_version_1_is(kind: str) -> None:
    manager = cgroup.manager(kind, "/a", "x")
    assert manager.kind == "disabled" and "cgroup v1" in manager.apply({"pids": {"limit": 3}})[0]


@pytest.mark.parametrize("relative", ["", "a/../b", ".."])
def test_paths_that_leave_the_tree(relative: str) -> None:
    with pytest.raises(UsageError):
        cgroupfs.Cgroupfs("/sys/fs/cgroup", relative)
    with pytest.raises(UsageError, match="is not known"):
        cgroup.manager("openrc", relative, "x")


# --- figures -----------------------------------------------------------------------------------------

FILES = {
    "cpu.stat": "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 4\nnr_throttled 2\nthrottled_usec 9\n",
    "memory.current": "1000\n", "memory.max": "5000\n", "memory.peak": "2000\n", "memory.events": "low 0\nmax 6\noom_kill 1\n",
    "memory.stat": "anon 1\nfile 33\nkernel 5\n", "memory.swap.current": "10\n", "memory.swap.max": "100\n",
    "pids.current": "3\n", "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:1 \n",
    "hugetlb.2MB.current": "4096\n", "hugetlb.2MB.events": "max 8\n", "hugetlb.2MB.rsvd.current": "1\n",
}  # fmt: skip


def test_figures(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    found = cgroup.Cgroup(str(tmp_path)).stats()
    assert found["cpu"]["usage"] == {"total": 10_000, "kernel": 3000, "user": 7000}
    assert found["cpu"]["throttling"] == {"periods": 4, "throttledPeriods": 2, "throttledTime": 9000}
    assert found["memory"]["usage"] == {"limit": 5000, "usage": 1000, "max": 2000, "failcnt": 6}
    assert found["memory"]["swap"]["limit"] == 5100 and found["memory"]["swap"]["usage"] == 1010
    assert found["memory"]["cache"] == 33 and found["memory"]["raw"]["anon"] == 1
    assert found["pids"] == {"current": 3, "limit": 0}
    moved = {(entry["major"], entry["minor"], entry["op"]): entry["value"] for entry in found["blkio"]["ioServiceBytesRecursive"]}
    assert moved == {(8, 0, "Read"): 1, (8, 0, "Write"): 2, (8, 0, "Discard"): 5}
    assert [entry["value"] for entry in found["blkio"]["ioServicedRecursive"]] == [3, 4, 6]
    assert found["hugetlb"] == {"2MB": {"usage": 4096, "max": 0, "failcnt": 8}}
    assert cgroup.Cgroup(str(tmp_path)).oom_kills() == 1


def test_figures_without_controllers(tmp_path: Path) -> None:
    found = cgroup.Cgroup(str(tmp_path)).stats()
    assert found["memory"]["usage"] == {"limit": (1 << 64) - 1, "usage": 0, "max": 0, "failcnt": 0}
    assert found["memory"]["swap"]["limit"] == (1 << 64) - 1 and found["pids"] == {"current": 0, "limit": 0}
