"""Flags of `rl run` that no other test drives: environment, platform, labels, published ports."""

from __future__ import annotations

from pathlib import Path

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
