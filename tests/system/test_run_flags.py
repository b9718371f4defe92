"""Flags of `rl run` that no other test drives: environment, platform, labels, published ports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.registry import Registry
from system.conftest import Rl, fetch

RUN = ("run", "--rm", "--network=none")


def test_the_host_s_environment(rl: Rl) -> None:
    shown = ("busybox", "sh", "-c", "echo $GREETING $https_proxy $NO_PROXY")
    assert rl.ok(*RUN, "--env-host", *shown, env={"GREETING": "hello"}) == "hello"
    assert rl.ok(*RUN, *shown, env={"GREETING": "hello"}) == ""
    proxy = {"https_proxy": "http://proxy:8080", "NO_PROXY": "localhost"}
    assert rl.ok(*RUN, *shown, env=proxy).split() == [*proxy.values()]
    assert rl.ok(*RUN, "--http-proxy=false", *shown, env=proxy) == ""


def test_an_environment_of_one_s_own(rl: Rl) -> None:
    names = [line.partition("=")[0] for line in rl.ok(*RUN, "--unsetenv-all", "-e", "A=1", "busybox", "/bin/env").splitlines()]
    assert "A" in names and "container" not in names and "PATH" not in names


def test_the_platform(rl: Rl) -> None:
    assert rl.ok(*RUN, "--os", "linux", "--arch", "amd64", "busybox", "echo", "fits") == "fits"
    for flags in (("--arch", "arm64"), ("--os", "windows"), ("--arch", "arm", "--variant", "v7")):
        done = rl(*RUN, *flags, "--pull=never", "busybox", "true")
        assert done.returncode == 125 and "image not known" in done.stderr and "hint: " in done.stderr, flags


def test_labels_from_a_file(rl: Rl) -> None:
    path = rl.user.home / "labels"
    path.write_text("one=1\n# a comment\ntwo=2 and more\n")
    rl.ok("create", "--label-file", path, "--name", "labelled", "busybox", "true")
    assert rl.ok("inspect", "--format", "{{.Config.Labels.one}},{{.Config.Labels.two}}", "labelled") == "1,2 and more"
    assert rl("create", "--label-file", "/no/such", "busybox", "true").returncode == 125


@pytest.mark.parametrize(("flags", "code"), [(["--kernel-memory", "0"], 0), (["--kernel-memory", "64m"], 125)])
def test_kernel_memory_is_of_cgroup_v1(rl: Rl, flags: list[str], code: int) -> None:
    assert rl(*RUN, *flags, "busybox", "true").returncode == code


def test_all_exposed_ports(rl: Rl) -> None:
    rl.ok("run", "-d", "--name", "web", "-P", "--expose", "8080", "busybox", "sh", "-c",
          "echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp")
    try:
        port = int(rl.ok("port", "web", "8080").rpartition(":")[2])
        for _ in range(50):
            if "hello" in fetch(port, "/index.html"):
                break
        else:
            raise AssertionError("no answer on the published port")
    finally:
        rl.ok("rm", "-f", "-t", "0", "web")


def test_login_says_who_is_logged_in(rl: Rl, registry: Registry, tmp_path: Path) -> None:
    host = f"127.0.0.1:{registry.port}"
    done = rl("login", "--username", "me", "--password-stdin", "--tls-verify=false", host, input="secret\n")
    assert done.returncode == 0, done.stderr
    assert rl.ok("login", "--get-login", host) == "me"
    rl.ok("logout", host)
    assert rl("login", "--get-login", host).returncode == 125


LIMITS = {
    "--blkio-weight": "200", "--cpu-period": "50000", "--cpu-quota": "25000", "--cpu-shares": "512", "--cpuset-cpus": "0",
    "--cpuset-mems": "0", "--memory": "64m", "--memory-reservation": "32m", "--memory-swap": "128m", "--memory-swappiness": "-1",
    "--pids-limit": "50", "--cpu-rt-period": "0", "--cpu-rt-runtime": "0",
}  # fmt: skip
#: inspect's name and value of each
SHOWN = {"BlkioWeight": 200, "CpuPeriod": 50000, "CpuQuota": 25000, "CpuShares": 512, "CpusetCpus": "0", "CpusetMems": "0",
         "Memory": 64 << 20, "MemoryReservation": 32 << 20, "MemorySwap": 128 << 20, "PidsLimit": 50}


def host_config(rl: Rl, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(rl.ok("container", "inspect", name))[0]["HostConfig"]
    return document


def test_limits_are_kept_by_create_and_update(rl: Rl) -> None:
    flags = [f"{flag}={value}" for flag, value in LIMITS.items()]
    rl.ok("create", "--name", "limited", *flags, "--cgroup-conf", "memory.high=1000000", "--cgroupns=host", "--cgroups=enabled",
          "busybox", "true")
    assert {key: host_config(rl, "limited")[key] for key in SHOWN} == SHOWN
    rl.ok("create", "--name", "updated", "--cgroup-parent", "rl-test.slice", "busybox", "true")
    rl.ok("update", *flags, "updated")
    assert {key: host_config(rl, "updated")[key] for key in SHOWN} == SHOWN
    rl.ok("create", "--name", "newest", "busybox", "true")
    rl.ok("update", "--latest", "--cpus", "0.5")
    assert host_config(rl, "newest")["NanoCpus"] == 500_000_000


@pytest.mark.skipif(not os.path.exists("/dev/vda"), reason="no disk /dev/vda: the limits of a disk need one")
def test_limits_of_a_disk(rl: Rl) -> None:
    rates = {"--blkio-weight-device": "300", "--device-read-bps": "1mb", "--device-read-iops": "100", "--device-write-bps": "2mb",
             "--device-write-iops": "200"}  # fmt: skip
    flags = [f"{flag}=/dev/vda:{value}" for flag, value in rates.items()]
    rl.ok("create", "--name", "disk", *flags, "busybox", "true")
    rl.ok("create", "--name", "later", "busybox", "true")
    rl.ok("update", *flags, "later")
    for name in ("disk", "later"):
        found = host_config(rl, name)
        assert [each["Weight"] for each in found["BlkioWeightDevice"]] == [300]
        assert [each["Rate"] for each in found["BlkioDeviceReadBps"] + found["BlkioDeviceWriteIOps"]] == [1 << 20, 200]


def test_the_pull_of_a_run(rl: Rl, registry: Registry) -> None:
    image = f"127.0.0.1:{registry.port}/busybox:latest"
    (rl.user.home / "auth.json").write_text("{}")
    flags = ["--quiet", "--tls-verify=false", "--platform", "linux/amd64", "--authfile", str(rl.user.home / "auth.json")]
    try:
        assert rl.ok(*RUN, *flags, image, "echo", "pulled") == "pulled"
        assert rl.ok(*RUN, "--cgroups=disabled", "--sig-proxy=false", image, "echo", "again") == "again"
    finally:
        rl("rmi", image)


def test_latest(rl: Rl, tmp_path: Path) -> None:
    rl.ok("run", "-d", "--network=none", "--cidfile", rl.user.home / "cid", "busybox", "sleep", "1000")
    rl.ok("restart", "-t", "0", "--latest")
    rl.ok("restart", "-t", "0", "--cidfile", rl.user.home / "cid")
    rl.ok("stop", "-t", "0", "--latest")
    rl.ok("init", "--latest")
    assert rl.ok("inspect", "--latest", "--size", "--type", "container", "--format", "{{.State.Status}}") == "initialized"
    rl.ok("rm", "-f", "--latest")
    rl.ok("create", "--name", "still", "busybox", "true")
    script = "rl mount --latest --no-trunc && rl unmount --latest --force"
    assert rl.ok("unshare", "sh", "-c", script).splitlines()[-1] == rl.ok("ps", "-a", "-q", "--no-trunc")


def test_cp_that_does_not_pause(rl: Rl) -> None:
    rl.ok("create", "--name", "box", "busybox", "true")
    rl.ok("cp", "--pause=false", "/etc/hostname", "box:/copied")
    assert rl.ok("cp", "box:/copied", "-")


def test_what_rl_says_of_itself(rl: Rl) -> None:
    assert "Usage" in rl.ok("help", "run") or "rl run" in rl.ok("help", "run")
    assert rl.ok("version", "--format", "{{.Client.Version}}") in rl.ok("version")
    assert rl.ok("info", "--format", "{{.host.os}}") == "linux"
    rl.ok("completion", "--file", rl.user.home / "rl.bash", "bash")
    assert "complete" in (rl.user.home / "rl.bash").read_text()


def test_credentials_in_a_file(rl: Rl, registry: Registry) -> None:
    host, path, certificates = f"127.0.0.1:{registry.port}", rl.user.home / "kept.json", rl.user.home / "certs.d"
    certificates.mkdir(exist_ok=True)
    said = rl.ok("login", "-v", "-u", "me", "-p", "x", "--tls-verify=false", "--authfile", path, "--cert-dir", certificates, host)
    assert str(path) in said and host in path.read_text()
    assert rl.ok("login", "--get-login", "--authfile", path, host) == "me"
    rl.ok("logout", "--authfile", path, "--all")
    assert host not in path.read_text()
