"""Small values of flags, the environment, limits and id maps: tables of what is taken and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rl.engine import cgroups
from rl.engine.spec import environment, idmaps, limits, values
from rl.errors import UnsupportedError, UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("1", 1), ("512", 512), ("1b", 1), ("1k", 1024), ("64kb", 64 << 10), ("64KiB", 64 << 10), ("512m", 512 << 20),
        ("1.5g", 3 << 29), ("2T", 2 << 40), ("1p", 1 << 50), (" 7m ", 7 << 20), ("0.5k", 512),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert values.size(text, "--memory") == expected


@pytest.mark.parametrize("text", ["", "m", "b", "-1", "-1m", "1x", "nan", "inf", "infinity", "1e400", "1e30", "9p9", "8192p", "1 2", "kb"])
def test_size_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory") as caught:
        values.size(text, "--memory")
    assert caught.value.hint


@pytest.mark.parametrize(("text", "expected"), [("7", 7), ("+7", 7), ("-1", -1), (" 5 ", 5), (12, 12)])
def test_integer(text: object, expected: int) -> None:
    assert values.integer(text, "--x") == expected


@pytest.mark.parametrize("text", ["", "-", "1.0", "1_000", "0x10", "seven", "\u0663", "²"])
def test_integer_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.integer(text, "--x")


@pytest.mark.parametrize(("value", "low", "high"), [(0, 1, None), (1001, -1000, 1000), (-1001, -1000, 1000)])
def test_integer_bounds(value: int, low: int, high: int | None) -> None:
    with pytest.raises(UsageError, match="out of range"):
        values.integer(value, "--x", low, high)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a,b", ["a", "b"]), ('a,"b,c",d', ["a", "b,c", "d"]), ('"a ""b"""', ['a "b"']), ("", [""]), ('x="1,2"', ["x=1,2"])],
)
def test_comma_list(text: str, expected: list[str]) -> None:
    assert values.comma_list(text) == expected


def test_comma_list_open_quotation() -> None:
    with pytest.raises(UsageError, match="not closed"):
        values.comma_list('type=bind,source="/a,b')


@pytest.mark.parametrize(("text", "expected"), [("", True), ("TRUE", True), ("1", True), ("f", False), ("No", False)])
def test_boolean(text: str, expected: bool) -> None:
    assert values.boolean(text, "--x") is expected
    with pytest.raises(UsageError):
        values.boolean("perhaps", "--x")


def test_pairs() -> None:
    assert values.pairs(["a=1", "b", "c=x=y", "a=2"], "--label") == {"a": "2", "b": "", "c": "x=y"}
    with pytest.raises(UsageError, match="has no key"):
        values.pairs(["=1"], "--label")


def test_files_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes("# comment\r\n\r\n  A=1 \r\nB=x\u2028y\n  NAME  \n#C=2\nlast=é".encode())
    assert values.label_files([str(file)], "--env-file") == ["A=1 ", "B=x\u2028y", "NAME", "last=é"]
    with pytest.raises(UsageError, match="No such file"):
        values.label_files([str(tmp_path / "none")], "--env-file")
    file.write_bytes(b"A=\xff")
    with pytest.raises(UsageError, match="utf-8"):
        values.label_files([str(file)], "--env-file")


HOST = {"LANG": "C", "RL_A": "1", "RL_B": "2", "https_proxy": "http://p:1", "HOME": "/home/u"}
BASE = {"PATH": environment.DEFAULT_PATH, "container": "rl"}


@pytest.mark.parametrize(
    ("options", "image", "expected"),
    [
        ({"http_proxy": False}, [], BASE),
        ({}, [], {**BASE, "https_proxy": "http://p:1"}),
        ({"http_proxy": False, "tty": True}, ["PATH=/bin", "A=b=c"], {**BASE, "PATH": "/bin", "TERM": "xterm", "A": "b=c"}),
        ({"http_proxy": False, "env": ["A=2", "RL_A", "GONE", "E="]}, ["A=1"], {**BASE, "A": "2", "RL_A": "1", "E": ""}),
        ({"http_proxy": False, "env": ["RL_*"]}, [], {**BASE, "RL_A": "1", "RL_B": "2"}),
        ({"unsetenv_all": True, "env": ["X=1"]}, ["A=1"], {"X": "1"}),
        ({"http_proxy": False, "unsetenv": ["A", "none"]}, ["A=1", "B=2"], {**BASE, "B": "2"}),
        ({"env_host": True, "env": ["LANG=de"]}, ["LANG=fr"], {**BASE, **HOST, "LANG": "de"}),
    ],
    ids=["base", "proxy", "image", "given", "prefix", "nothing", "unset", "host"],
)
def test_environment(options: dict[str, Any], image: list[str], expected: dict[str, str]) -> None:
    lines = environment.environment(options, image, HOST)
    assert dict(line.split("=", 1) for line in lines) == expected
    assert len(lines) == len(expected)


def test_environment_file_is_overridden_by_flags(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("A=file\nB=file\nLANG\n")
    lines = environment.environment({"env_file": [str(tmp_path / "f")], "env": ["B=flag"], "http_proxy": False}, ["A=image"], HOST)
    assert {"A=file", "B=flag", "LANG=C"} <= set(lines)


@pytest.mark.parametrize("line", ["=x", "", "A=\0"])
def test_environment_refused(line: str) -> None:
    with pytest.raises(UsageError, match="not an environment variable"):
        environment.environment({"env": [line]}, [], {})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"memory": "0"}, {}),
        ({"memory": "64m"}, {"memory": {"limit": 64 << 20, "swap": 128 << 20}}),
        ({"memory": "64m", "memory_swap": "-1"}, {"memory": {"limit": 64 << 20, "swap": -1}}),
        ({"memory": "64m", "memory_swap": "0"}, {"memory": {"limit": 64 << 20, "swap": 128 << 20}}),
        ({"memory": "64m", "memory_swap": "64m"}, {"memory": {"limit": 64 << 20, "swap": 64 << 20}}),
        ({"memory_reservation": "1m"}, {"memory": {"reservation": 1 << 20}}),
        ({"cpus": "1.5"}, {"cpu": {"quota": 150_000, "period": 100_000}}),
        ({"cpus": "0"}, {}),
        ({"cpu_quota": "50000", "cpu_period": "200000"}, {"cpu": {"quota": 50_000, "period": 200_000}}),
        ({"cpu_quota": "-1"}, {}),
        ({"cpu_shares": "512", "cpuset_cpus": "0-1,3"}, {"cpu": {"shares": 512, "cpus": "0-1,3"}}),
        ({"pids_limit": "10"}, {"pids": {"limit": 10}}),
        ({"pids_limit": "0"}, {}),
        ({"pids_limit": "-1"}, {"pids": {"limit": -1}}),
        ({"blkio_weight": "0"}, {}),
        ({"blkio_weight": "300"}, {"blockIO": {"weight": 300}}),
        ({"cgroup_conf": ["memory.high=7", "cpu.weight=3"]}, {"unified": {"memory.high": "7", "cpu.weight": "3"}}),
        ({"memory_swappiness": -1, "cpu_rt_period": "0", "cpu_rt_runtime": "0", "kernel_memory": "0", "oom_kill_disable": False}, {}),
    ],
)
def test_limits(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert limits.resources(options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "lots"}, {"memory_swap": "1g"}, {"memory_swap": "-1"}, {"memory": "2m", "memory_swap": "1m"},
        {"memory": "1m", "memory_reservation": "2m"}, {"cpus": "-1"}, {"cpus": "nan"}, {"cpus": "0.001"},
        {"cpus": "1", "cpu_quota": "1000"}, {"cpu_period": "10"}, {"cpu_quota": "10"}, {"cpu_shares": "-5"},
        {"blkio_weight": "9"}, {"blkio_weight": "1001"}, {"blkio_weight_device": ["/dev/null:100"]},
        {"blkio_weight_device": ["/dev/none:100"]}, {"device_read_bps": ["sda:1mb"]}, {"device_read_bps": ["/dev/null"]},
        {"cgroup_conf": ["memory.high"]}, {"cgroup_conf": ["cgroup.procs=1"]}, {"cgroup_conf": ["../x.y=1"]}, {"cgroup_conf": ["x=1"]},
        {"cpuset_cpus": "x"}, {"cpuset_cpus": "3-1"}, {"cpuset_mems": "0,"}, {"pids_limit": "-2"}, {"pids_limit": "many"},
    ],
    ids=str,
)
def test_limits_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        limits.resources(options)


@pytest.mark.parametrize(
    "options",
    [{"memory_swappiness": 10}, {"oom_kill_disable": True}, {"cpu_rt_period": "1000"}, {"cpu_rt_runtime": "1"}, {"kernel_memory": "1m"}],
    ids=str,
)
def test_limits_of_version_1(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="cgroup v2 has no such setting") as caught:
        limits.resources(options)
    assert caught.value.hint


BLOCK_DEVICE = next((str(path) for path in Path("/dev").iterdir() if path.is_block_device()), "")


@pytest.mark.skipif(not BLOCK_DEVICE, reason="no block device in /dev")
def test_limits_of_devices() -> None:
    """By number, as the kernel wants them; rates in bytes may have units."""
    number = os.stat(BLOCK_DEVICE).st_rdev
    device = {"major": os.major(number), "minor": os.minor(number)}
    asked = {
        "blkio_weight_device": [f"{BLOCK_DEVICE}:100"], "device_read_bps": [f"{BLOCK_DEVICE}:1mb"], "device_write_bps": [f"{BLOCK_DEVICE}:5"],
        "device_read_iops": [f"{BLOCK_DEVICE}:7"], "device_write_iops": [f"{BLOCK_DEVICE}:8"],
    }  # fmt: skip
    assert limits.resources(asked) == {
        "blockIO": {
            "weightDevice": [{**device, "weight": 100}], "throttleReadBpsDevice": [{**device, "rate": 1 << 20}],
            "throttleWriteBpsDevice": [{**device, "rate": 5}], "throttleReadIOPSDevice": [{**device, "rate": 7}],
            "throttleWriteIOPSDevice": [{**device, "rate": 8}],
        }
    }  # fmt: skip
    with pytest.raises(UsageError):
        limits.resources({"device_read_iops": [f"{BLOCK_DEVICE}:1mb"]})


PRESENT = {"memory": {"limit": 64 << 20, "swap": 128 << 20}, "pids": {"limit": 5}}


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        ({"memory": "32m"}, {**PRESENT, "memory": {"limit": 32 << 20, "swap": 64 << 20}}),
        ({"memory_swap": "256m"}, {**PRESENT, "memory": {"limit": 64 << 20, "swap": 256 << 20}}),
        ({"memory_reservation": "1m"}, {**PRESENT, "memory": {**PRESENT["memory"], "reservation": 1 << 20}}),
        ({"memory": "-1"}, {**PRESENT, "memory": {"limit": -1, "swap": -1}}),
        ({"pids_limit": "0"}, {**PRESENT, "pids": {"limit": -1}}),
        ({"pids_limit": "9", "cpus": "0"}, {**PRESENT, "pids": {"limit": 9}, "cpu": {"quota": -1, "period": 100_000}}),
        ({"cpu_quota": "-1"}, {**PRESENT, "cpu": {"quota": -1}}),
    ],
)
def test_changes_of_limits(options: dict[str, Any], merged: dict[str, Any]) -> None:
    """`rl update`: what is not named stays; "no limit" is a change too."""
    assert limits.merge(PRESENT, limits.resources(options, PRESENT)) == merged


@pytest.mark.parametrize("options", [{"memory_swap": "32m"}, {"memory_reservation": "65m"}, {"memory": "1m", "memory_reservation": "2m"}])
def test_changes_that_contradict_what_is(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        limits.resources(options, PRESENT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("enabled", "")),
        ({"cgroups": "split"}, ("split", "")),
        ({"cgroup_parent": "a.slice", "cgroups": "no-conmon"}, ("no-conmon", "a.slice")),
    ],
)
def test_cgroup_modes(options: dict[str, Any], expected: tuple[str, str]) -> None:
    assert cgroups.check(options) == expected


@pytest.mark.parametrize(
    "options",
    [{"cgroups": "x"}, {"cgroups": "split", "cgroup_parent": "a"}, {"cgroups": "disabled", "cgroup_parent": "a"},
     {"cgroups": "disabled", "cgroupns": "host"}, {"cgroup_parent": "a/../b"}],
)  # fmt: skip
def test_cgroup_modes_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        cgroups.check(options)


IDS, LIMITS = (1000, 1001), (65536, 65536)


@pytest.mark.parametrize(
    ("text", "uid_map", "gid_map", "key", "user"),
    [
        ("", [], [], "", ""),
        ("host", [], [], "", ""),
        ("nomap", [(0, 1, 65536)], [(0, 1, 65536)], "shift1", ""),
        ("keep-id", [(0, 1, 1000), (1000, 0, 1), (1001, 1002, 64535)], [(0, 1, 1001), (1001, 0, 1), (1002, 1003, 64534)], "shift1+keep1000.1001", "1000:1001"),
        ("keep-id:uid=7,gid=7", [(0, 1, 7), (7, 0, 1), (8, 9, 65528)], [(0, 1, 7), (7, 0, 1), (8, 9, 65528)], "shift1+keep7.7", "7:7"),
        ("keep-id:uid=7,gid=7,size=10", [(0, 1, 7), (7, 0, 1), (8, 9, 2)], [(0, 1, 7), (7, 0, 1), (8, 9, 2)], "shift1+keep7.7", "7:7"),
        ("auto", [(0, 1, 1024)], [(0, 1, 1024)], "shift1", ""),
        ("auto:size=5", [(0, 1, 5)], [(0, 1, 5)], "shift1", ""),
    ],
)
def test_user_namespaces(text: str, uid_map: Any, gid_map: Any, key: str, user: str) -> None:
    found = idmaps.parse(text, IDS, LIMITS, [])
    assert (found.uid_map, found.gid_map, found.id_key, found.user) == (uid_map, gid_map, key, user)
    for ranges in (found.uid_map, found.gid_map):  # no shared id twice, none that the user does not have
        shared = [i for _, first, count in ranges for i in (first, first + count - 1)]
        assert max(shared, default=0) <= 65536
        assert sum(count for *_, count in ranges) <= 65537


def test_auto_takes_the_lowest_gap() -> None:
    assert idmaps.parse("auto:size=10", IDS, LIMITS, [(1, 10), (31, 10)]).uid_map == [(0, 11, 10)]
    assert idmaps.parse("auto:size=21", IDS, LIMITS, [(31, 10), (1, 10)]).uid_map == [(0, 41, 21)]
    assert idmaps.parse("auto:size=65496", IDS, LIMITS, [(1, 40)]).uid_map == [(0, 41, 65496)]
    with pytest.raises(UnsupportedError, match="no 65497 free"):
        idmaps.parse("auto:size=65497", IDS, LIMITS, [(1, 40)])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("keep", UsageError), ("private", UsageError), ("host:x=1", UsageError), ("nomap:size=1", UsageError),
        ("auto:uid=1", UsageError), ("auto:size=0", UsageError), ("auto:size=x", UsageError), ("keep-id:uid=-1", UsageError),
        ("keep-id:size=0", UsageError), ("keep-id:size=65537", UnsupportedError),
    ],
)
def test_user_namespaces_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        idmaps.parse(text, IDS, LIMITS, [])


def test_single_id_hosts_have_no_nested_namespaces() -> None:
    for text in ("keep-id", "nomap", "auto"):
        with pytest.raises(UnsupportedError, match="subordinate") as caught:
            idmaps.parse(text, IDS, (0, 0), [])
        assert "usermod" in caught.value.hint
    assert idmaps.parse("host", IDS, (0, 0), []).uid_map == []
