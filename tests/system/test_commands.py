"""The real command, flag by flag: what a user types, and the exit code, output and message that must come of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from system.conftest import Rl, eventually
from system.test_bad_input import refused


def script(rl: Rl, text: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A line of bash as the user, for pipes and closed descriptors; `rl` is the installed one."""
    return rl.user.run("bash", "-c", text, timeout=timeout)


# (arguments of `rl run --rm`, lines of standard output)
GOOD = [
    ("-w /tmp busybox pwd", "/tmp"),
    ("-e A=1 -e B busybox sh -c 'echo $A-$B-'", "1--"),
    ("--unsetenv container busybox sh -c 'echo -$container-'", "--"),
    ("--entrypoint '[\"echo\",\"a\"]' busybox b", "a b"),
    ("--entrypoint echo busybox b", "b"),
    ("--hostname box busybox sh -c 'hostname; cat /etc/hostname'", "box\nbox"),
    ("-u 1234:99 busybox id", "uid=1234(1234) gid=99(99) groups=99(99)"),
    ("-u 1234:99 --group-add 5,6 busybox id -G", "99 5 6"),
    ("--userns keep-id busybox sh -c 'test $(id -u) != 0 && test $(id -un) = $(id -gn) && echo same'", "same"),
    ("--userns nomap busybox sh -c 'awk \"{print \\$2}\" /proc/self/uid_map'", "1"),
    ("--userns auto:size=100 busybox sh -c 'awk \"{print \\$3}\" /proc/self/uid_map'", "100"),
    ("--umask 0077 busybox sh -c umask", "0077"),
    ("--ulimit nofile=100:200 busybox sh -c 'ulimit -Sn; ulimit -Hn'", "100\n200"),
    ("--sysctl net.ipv4.ip_unprivileged_port_start=80 busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "80"),
    ("--oom-score-adj 500 busybox cat /proc/self/oom_score_adj", "500"),
    ("--shm-size 1m busybox sh -c 'df -k /dev/shm | awk \"END {print \\$2}\"'", "1024"),
    ("--tmpfs /d:size=64k busybox sh -c 'df -k /d | awk \"END {print \\$2}\"'", "64"),
    ("--mount type=tmpfs,dst=/d,tmpfs-mode=0700 busybox stat -c %a /d", "700"),
    ("--read-only busybox sh -c 'touch /x 2>/dev/null || touch /tmp/x && echo tmp'", "tmp"),
    ("--read-only --read-only-tmpfs=false busybox sh -c 'touch /tmp/x 2>/dev/null || echo none'", "none"),
    ("--network none busybox sh -c 'ls /sys/class/net'", "lo"),
    ("--add-host a:192.0.2.7 busybox grep -c 192.0.2.7 /etc/hosts", "1"),
    ("--dns 192.0.2.1 --dns-search x.y --dns-opt ndots:3 busybox cat /etc/resolv.conf",
     "search x.y\nnameserver 192.0.2.1\noptions ndots:3"),
    ("--cap-drop all --cap-add chown busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000001"),
    ("--security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    ("--security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    ("--security-opt mask=/etc/passwd busybox cat /etc/passwd", ""),
    ("-a stdout busybox sh -c 'echo o; echo e >&2'", "o"),
    ("--log-driver none busybox echo x", "x"),
    ("--log-driver passthrough busybox echo x", "x"),
    ("-t busybox tty", "/dev/pts/0"),
]


@pytest.mark.parametrize(("words", "expected"), GOOD)
def test_run(rl: Rl, words: str, expected: str) -> None:
    done = rl("run", "--rm", *shlex.split(words))
    assert (done.returncode, done.stdout.removesuffix("\n")) == (0, expected), done.stderr


# (arguments of `rl run --rm`, exit code, part of the error)
BAD = [
    ("-w /no/such busybox pwd", 127, "/no/such"),
    ("-u root:no-group busybox true", 125, "no-group"),
    ("-v ../no-such:/d busybox true", 125, "no-such"),
    ("-v a/../../b:/d busybox true", 125, "a/../../b"),
    ("-v /tmp:/d -v /tmp:/d busybox true", 125, "duplicate"),
    ("-v /tmp:d busybox true", 125, "absolute"),
    ("-v /tmp:/d:bogus busybox true", 125, "bogus"),
    ("--mount type=bind,dst=/d busybox true", 125, "source"),
    ("--mount type=tmpfs,dst=/d,bogus=1 busybox true", 125, "bogus"),
    ("--tmpfs /d:bogus busybox true", 125, "bogus"),
    ("--annotation key busybox true", 125, "key"),
    ("--sysctl net.core.somaxconn busybox true", 125, "net.core.somaxconn"),
    ("--label =x busybox true", 125, "=x"),
    ("--env-file /no/such busybox true", 125, "/no/such"),
    ("--expose x busybox true", 125, "--expose"),
    ("-p 9000-9002:80-81 busybox true", 125, "length"),
    ("-p 9000:80/sctp busybox true", 125, "SCTP"),
    ("--network none -p 9000:80 busybox true", 125, "none"),
    ("--network none --network host busybox true", 125, "one network"),
    ("--network container:no-such busybox true", 125, "no-such"),
    ("--pid weird busybox true", 125, "weird"),
    ("--uts host --hostname x busybox true", 125, "--uts=host"),
    ("--ulimit nofile=200:100 busybox true", 125, "soft"),
    ("--cpuset-cpus x busybox true", 125, "--cpuset-cpus"),
    ("--cpus -1 busybox true", 125, "--cpus"),
    ("--memory-swap 64m busybox true", 125, "--memory"),
    ("--shm-size 1x busybox true", 125, "1x"),
    ("--stop-signal FOO busybox true", 125, "FOO"),
    ("--stop-timeout -1 busybox true", 125, "-1"),
    ("--umask 9 busybox true", 125, "9"),
    ("--tz No/Where busybox true", 125, "No/Where"),
    ("--pull never no-such-image true", 125, "no-such-image"),
    ("--pull sometimes busybox true", 125, "sometimes"),
    ("--device /dev/no-such busybox true", 125, "/dev/no-such"),
    ("--init --init-path /no/such busybox true", 125, "/no/such"),
    ("--detach-keys x,zz busybox true", 125, "zz"),
    ("-a nowhere busybox true", 125, "nowhere"),
    ("-d -a stdout busybox true", 125, "--attach"),
    ("--cidfile /no/such/file busybox true", 125, "/no/such/file"),
    ("--trace-file /no/such/file busybox true", 125, "/no/such"),
    ("--rootfs /no/such true", 125, "/no/such"),
    ("--runtime /no/such busybox true", 125, "/no/such"),
    ("--cap-add all --cap-drop all busybox true", 125, "ALL"),
    ("--log-opt max-size=1x busybox true", 125, "1x"),
]


@pytest.mark.parametrize(("words", "code", "says"), BAD)
def test_run_refuses(rl: Rl, words: str, code: int, says: str) -> None:
    before = sorted((rl.data / "volumes").iterdir())
    refused(rl, "run", "--rm", *shlex.split(words), code=code, says=says)
    assert sorted((rl.data / "volumes").iterdir()) == before


@pytest.mark.parametrize(("words", "code"), [("sh -c 'exit 42'", 42), ("sh -c 'kill -9 $$; exit 3'", 3), ("false", 1)])
def test_exit_codes(rl: Rl, words: str, code: int) -> None:
    assert rl("run", "--rm", "busybox", *shlex.split(words)).returncode == code
    assert rl.containers() == []


def test_what_is_left_out_is_warned_of(rl: Rl) -> None:
    """The runtime's warnings reach the person; the container runs."""
    options = ["--oom-score-adj=-900", "--security-opt", "apparmor=strict"]
    done = rl("run", "--rm", "--network=none", *options, "busybox", "cat", "/proc/self/oom_score_adj")
    assert done.returncode == 0 and done.stdout.strip() != "-900", done.stderr
    assert "oom_score_adj -900 is not set" in done.stderr
    if not Path("/sys/module/apparmor/parameters/enabled").exists():
        assert "AppArmor profile 'strict' is not applied" in done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("rl run --rm busybox yes | head -1", 141),
        ("rl run --rm busybox seq 100000 | head -1", 141),
        ("rl images | true", 141),
        ("rl run --rm busybox echo x >/dev/full", 125),
        ("rl images >/dev/full", 125),
        ("rl run --rm busybox echo x >&-", 0),
        ("rl run --rm -i busybox cat <&-", 0),
        ("rl run --rm busybox true <&- >&- 2>&-", 0),
        ("rl images >&-", 0),
    ],
)
def test_callers_streams(rl: Rl, line: str, code: int) -> None:
    """Readers that go away early, full disks and closed descriptors: no noise, no hanging, the right code."""
    done = script(rl, f"{line}; echo ${{PIPESTATUS[0]}} >&2", timeout=20)
    assert done.stderr.splitlines()[-1] == str(code), done.stderr
    assert ("Error" in done.stderr) is (code == 125)


def test_binary_input_and_output(rl: Rl) -> None:
    """Every byte, both ways, more than any buffer holds."""
    make = "head -c 20000000 /dev/urandom > big"
    done = script(rl, f"{make}; md5sum < big; rl run --rm -i busybox cat < big | md5sum; cat big | rl run --rm -i busybox md5sum")
    assert len(set(done.stdout.splitlines())) == 1 and done.stdout.count("\n") == 3, done.stdout + done.stderr


def test_terminal_without_a_terminal(rl: Rl) -> None:
    done = rl("run", "--rm", "-it", "busybox", "cat", input="hello\n")
    assert done.returncode == 0 and "hello" in done.stdout and "not a terminal" in done.stderr


def test_wait_for_containers_that_remove_themselves(rl: Rl) -> None:
    rl.ok("run", "-d", "--name", "long", "--network=none", "busybox", "sh", "-c", "sleep 1.8; exit 4")
    rl.ok("run", "-d", "--rm", "--name", "short", "--network=none", "busybox", "sh", "-c", "sleep 1; exit 5")
    assert rl.ok("wait", "long", "short", "short") == "4\n5\n5"
    assert rl.ok("wait", "long") == "4"


def test_stop_that_had_to_kill(rl: Rl) -> None:
    rl.ok("run", "-d", "--name", "deaf", "busybox", "sleep", "60")
    began = time.monotonic()
    done = rl("stop", "-t", "1", "deaf")
    assert done.stdout == "deaf\n" and "SIGTERM did not end container deaf in 1 seconds" in done.stderr
    assert 1 <= time.monotonic() - began < 8
    assert rl("stop", "deaf").stderr == ""


def test_start_of_what_cannot_start(rl: Rl) -> None:
    rl.ok("create", "--name", "broken", "busybox", "no-such")
    for words in (["start"], ["start", "-a"]):
        done = rl(*words, "broken")
        assert done.returncode == 127 and done.stderr.count("Error: ") == 1, done.stderr
    assert rl.ok("inspect", "-f", "{{.State.Status}}", "broken") == "created"
    assert rl.ok("wait", "broken", timeout=5) == "0"  # nothing to wait for


def test_files_with_the_id(rl: Rl) -> None:
    """--cidfile, --pidfile and --replace; the cidfile goes with its container."""
    cid, pid = rl.user.home / "cid", rl.user.home / "pid"
    container_id = rl.ok("run", "-d", "--name", "one", "--cidfile", cid, "--pidfile", pid, "busybox", "sleep", "60")
    assert cid.read_text() == container_id
    assert pid.read_text().strip() == rl.ok("inspect", "-f", "{{.State.Pid}}", "one")
    done = rl("run", "--rm", "--cidfile", cid, "busybox", "true")
    assert done.returncode == 125 and "exists" in done.stderr
    assert cid.read_text() == container_id
    rl.ok("stop", "-t", "0", "--cidfile", cid)
    rl.ok("rm", "--cidfile", cid)
    assert not cid.exists() and rl.containers() == []


def test_anonymous_volumes(rl: Rl) -> None:
    """They go with a container that has --rm, or with `rl rm -v`; else they stay, as in Podman."""
    def count() -> int:
        return len(list((rl.data / "volumes").iterdir()))

    before = count()
    rl.ok("run", "--rm", "-v", "/anon", "busybox", "touch", "/anon/x")
    eventually(lambda: count() == before)
    rl.ok("run", "--name", "keeps", "-v", "/anon", "busybox", "true")
    assert count() == before + 1
    rl.ok("rm", "-v", "keeps")
    assert count() == before


def test_trace(rl: Rl) -> None:
    path = rl.user.home / "trace.json"
    done = rl("run", "--rm", "--trace", "--trace-file", path, "busybox", "true")
    assert done.returncode == 0 and "ms until the command ran" in done.stderr
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_exec_in_keep_id(rl: Rl, tmp_path: Path) -> None:
    """Files of either side belong to the user who made them."""
    directory = rl.user.home / "shared"
    directory.mkdir(exist_ok=True)
    subprocess.run(["chown", str(rl.user.uid), str(directory)], check=True)
    rl.ok("run", "-d", "--name", "mine", "--userns", "keep-id", "-v", f"{directory}:/d", "busybox", "sleep", "60")
    assert rl.ok("exec", "mine", "id", "-u") == str(rl.user.uid)
    rl.ok("exec", "mine", "touch", "/d/made")
    assert (directory / "made").stat().st_uid == rl.user.uid
    assert rl.ok("exec", "-u", "0", "mine", "id", "-u") == "0"
    rl.ok("rm", "-f", "-t", "0", "mine")
    (directory / "made").unlink()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ps -a --format {{.Names}}", "web"),
        ("ps -a --filter status=created --filter name=web -q --no-trunc", "{id}"),
        ("ps -a --filter label=k=v --format '{{.Labels}}'", "map[k:v]"),
        ("ps -a --filter label=no -q", ""),
        ("ps -a --noheading --format 'table {{.Names}}\\t{{.State}}'", "web         created"),
        ("inspect web -f '{{.State.Status}} {{.State.ExitCode}} {{json .Config.Cmd}}'", 'created 0 ["echo","a b"]'),
        ("inspect web -f '{{range .Config.Cmd}}{{.}},{{end}}'", "echo,a b,"),
        ("inspect -l -f {{.Name}}", "web"),
        ("container exists web", ""),
        ("image exists busybox", ""),
        ("port web", ""),
        ("images --noheading --format {{.Repository}}:{{.Tag}}", "docker.io/library/busybox:latest"),
    ],
)
def test_listing(rl: Rl, words: str, expected: str) -> None:
    container_id = rl.ok("create", "--name", "web", "--label", "k=v", "busybox", "echo", "a b")
    assert rl.ok(*shlex.split(words)) == expected.replace("{id}", container_id)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("inspect UPPER", 125, 'no such object: "UPPER"'),
        ("exec w", 125, "command"),
        ("exec w true", 125, "rl start w"),
        ("exec -w relative w true", 125, ""),
        ("top w", 125, "running"),
        ("kill w", 125, "running"),
        ("kill -s FOO w", 125, "FOO"),
        ("attach w", 125, "rl start --attach w"),
        ("port w 80", 125, "80"),
        ("ps --sort bogus", 125, "bogus"),
        ("images --filter bogus=1", 125, "bogus"),
        ("rm -a w", 125, "--all"),
        ("container exists no", 1, ""),
        ("image exists no", 1, ""),
        ("untag busybox no-such", 125, "no-such"),
        ("rmi busybox", 2, "in use"),
    ],
)
def test_refusals(rl: Rl, words: str, code: int, says: str) -> None:
    rl.ok("create", "--name", "w", "busybox", "true")
    done = rl(*shlex.split(words))
    assert done.returncode == code and says in done.stderr and "internal error" not in done.stderr, done.stderr
