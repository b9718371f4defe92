"""Engines and runtimes of others: Podman on `rl-runtime`, `rl` on crun and runc, as an ordinary user and as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from support.bundles import PROGRAM
from support.cgroup_lane import CgroupLane, captured
from system.conftest import Rl

Done = subprocess.CompletedProcess[str]


class Podman:
    """Podman with `rl-runtime` as its runtime, on a host with cgroup v2."""

    def __init__(self, lane: CgroupLane, base: Path, manager: str = "cgroupfs") -> None:
        self.lane = lane
        self.flags = ["--runtime", str(PROGRAM), "--cgroup-manager", manager, "--events-backend=file"]
        self.flags += ["--root", str(base / "storage"), "--runroot", str(base / "run"), "--storage-driver=vfs"]

    def __call__(self, *arguments: str | Path, input: str | None = None) -> Done:
        words = [*arguments]
        if words[0] == "run" and self.lane.user.uid == 0:
            # Defaults of a rootful Podman that take a pids controller, and CAP_SYS_RESOURCE: not every machine has them.
            nofile = [] if "--ulimit" in words else ["--ulimit=nofile=1024:2048"]
            parent = f"--cgroup-parent=/{self.lane.directory.name}/podman"  # and not in the machine's own root
            words[1:1] = ["--pids-limit=0", "--ulimit=nproc=1024:2048", parent, *nofile]
        return self.lane.run("podman", *self.flags, *words, input=input)

    def ok(self, *arguments: str | Path) -> str:
        done = self(*arguments)
        assert done.returncode == 0, f"podman {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module", params=["user", "root"])
def podman(request: pytest.FixtureRequest, busybox_archive: Path) -> Iterator[Podman]:
    base = Path(tempfile.mkdtemp(prefix="rl-test-podman-", dir="/var/tmp"))
    base.chmod(0o755)
    user = users.ensure("rltest-podman") if request.param == "user" else users.root(base / "home")
    os.chown(base, user.uid, user.gid)
    with CgroupLane(user) as lane:
        made = Podman(lane, base)
        made.ok("load", "-q", "-i", busybox_archive)
        yield made
        made("rm", "--all", "--force", "--time", "0")
        made("system", "reset", "--force")
        subprocess.run(["pkill", "-f", f"{base}/run"], check=False)  # Podman's pause process
    shutil.rmtree(base, ignore_errors=True)


def test_podman_run(podman: Podman) -> None:
    """The issue's own line, exit codes, and errors that Podman understands."""
    assert podman.ok("run", "--rm", "busybox", "echo", "hi") == "hi"
    assert podman("run", "--rm", "--network=none", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert podman("run", "--rm", "--network=none", "busybox", "nothing").returncode == 127
    assert podman("run", "--rm", "--network=none", "busybox", "/etc/not-executable").returncode == 126
    assert podman("run", "--rm", "-i", "--network=none", "busybox", "cat", input="typed").stdout == "typed"


def test_podman_life(podman: Podman) -> None:
    podman.ok("run", "-d", "--name", "life", "--network=none", "busybox", "sh", "-c", "trap 'exit 3' TERM; while true; do sleep 0.1; done")
    assert podman.ok("inspect", "--format", "{{.OCIRuntime}} {{.State.Status}}", "life") == f"{PROGRAM} running"
    assert podman.ok("exec", "life", "echo", "in") == "in"
    assert podman.ok("exec", "--user", "app", "--workdir", "/home/app", "life", "sh", "-c", "id -un; pwd").split() == ["app", "/home/app"]
    assert podman("exec", "life", "nothing").returncode == 127
    assert podman("exec", "life", "sh", "-c", "exit 9").returncode == 9
    podman.ok("pause", "life")
    assert podman.ok("ps", "--filter", "status=paused", "--format", "{{.Names}}") == "life"
    podman.ok("unpause", "life")
    assert "sleep" in podman.ok("top", "life", "args") or "sh -c" in podman.ok("top", "life", "args")
    podman.ok("stop", "-t", "5", "life")
    assert podman.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "life") == "exited 3"
    podman.ok("start", "life")
    podman.ok("kill", "--signal", "KILL", "life")
    for _ in range(50):
        if podman.ok("inspect", "--format", "{{.State.ExitCode}}", "life") == "137":
            break
        time.sleep(0.1)
    podman.ok("rm", "life")


@pytest.mark.parametrize(
    ("flags", "script", "output"),
    [
        (["-t"], "tty; test -t 0 && echo terminal", "/dev/pts/0\nterminal"),
        (["--read-only"], "touch /x 2>/dev/null || echo read-only", "read-only"),
        (["--cap-drop=ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
        (["--privileged"], "test -w /proc/sys/kernel/domainname && echo writable", "writable"),
        (["--tmpfs", "/t:size=1m"], "stat -f -c %T /t", "tmpfs"),
        (["-v", "/etc:/host:ro"], "test -e /host/hostname && touch /host/x 2>/dev/null || echo ro", "ro"),
        (["--user", "1000:1000"], "id -u; id -g", "1000\n1000"),
        (["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn", "100\n200"),
        (["--hostname", "box"], "hostname", "box"),
        (["--pid=host"], "test $$ -gt 1 && echo host", "host"),
        (["--security-opt=no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        (["--security-opt=seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
        (["--sysctl", "net.ipv4.ip_unprivileged_port_start=0"], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        (["--init"], "cat /proc/1/comm", "podman-init"),
        (["--oom-score-adj=500"], "cat /proc/self/oom_score_adj", "500"),
        (["--mount", "type=bind,src=/etc/hostname,dst=/a/b/c,ro"], "test -s /a/b/c && echo there", "there"),
        (["--umask", "0077"], "umask", "0077"),
    ],
)
def test_podman_options(podman: Podman, flags: list[str], script: str, output: str) -> None:
    assert podman.ok("run", "--rm", "--network=none", *flags, "busybox", "sh", "-c", script) == output


def test_podman_keep_id(podman: Podman) -> None:
    if podman.lane.user.uid:
        done = podman.ok("run", "--rm", "--network=none", "--userns=keep-id", "busybox", "id", "-u")
        assert done == str(podman.lane.user.uid)
    else:
        assert podman.ok("run", "--rm", "--network=none", "--uidmap=0:100000:1000", "--gidmap=0:100000:1000", "busybox", "cat", "/proc/self/uid_map").split() == ["0", "100000", "1000"]


def test_podman_pod(podman: Podman) -> None:
    """Containers that join each other's namespaces, as those of a pod."""
    podman.ok("run", "-d", "--name", "first", "--hostname=pod", "--network=none", "busybox", "sleep", "1000")
    try:
        shared = [f"--{kind}=container:first" for kind in ("uts", "ipc", "pid", "network")]
        assert podman.ok("run", "--rm", *shared, "busybox", "sh", "-c", "hostname; cat /proc/1/comm") == "pod\nsleep"
    finally:
        podman.ok("rm", "--force", "--time", "0", "first")


@pytest.mark.parametrize("program", ["crun", "runc", "rl-runtime"])
@pytest.mark.parametrize("who", ["user", "root"])
def test_rl_on_other_runtimes(program: str, who: str, busybox_archive: Path, tmp_path: Path) -> None:
    user = users.ensure("rltest-oci") if who == "user" else users.root(Path("/run") / f"{users.PREFIX}-engines")
    users.wipe(user)
    user.prepare()
    rl = Rl(user, flags=["--runtime", program])
    try:
        rl.ok("load", "-q", "-i", busybox_archive)
        assert rl.ok("run", "--rm", "busybox", "echo", "hi") == "hi"
        assert rl("run", "--rm", "--network=none", "busybox", "sh", "-c", "exit 7").returncode == 7
        assert rl("run", "--rm", "--network=none", "busybox", "nothing").returncode == 127
        assert rl("run", "--rm", "--network=none", "busybox", "/etc/not-executable").returncode == 126
        rl.ok("run", "-d", "--name", "c", "--network=none", "busybox", "sleep", "1000")
        assert rl.ok("exec", "c", "echo", "in") == "in"
        assert json.loads(rl.ok("inspect", "c"))[0]["OCIRuntime"] == program
        rl.ok("rm", "-f", "-t", "0", "c")
        with CgroupLane(user) as lane:  # where the runtime finds cgroup v2
            words = lane.argv(["rl", "--runtime", program, "run", "--rm", "--network=none", "busybox", "echo", "lane"])
            assert captured(words, user.env()).stdout == "lane\n"
            assert lane.groups() == []
    finally:
        rl.clean()
        users.wipe(user)
        if who == "root":
            shutil.rmtree(user.home, ignore_errors=True)
