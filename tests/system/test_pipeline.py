"""The pipeline in every lane: run, names, exit codes, streams, exec, logs, stop, rm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from system.conftest import Rl, eventually, fetch, free_port


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["busybox", "echo", "hello"], 0, "hello"),
        (["busybox", "true"], 0, ""),
        (["busybox", "sh", "-c", "exit 7"], 7, ""),
        (["busybox", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?"], 143, ""),
        (["busybox", "no-such-command"], 127, ""),
        (["busybox", "/etc/not-executable"], 126, ""),
        (["busybox", "/tmp"], 126, ""),
        (["-e", "A=1", "-e", "B=two words", "busybox", "sh", "-c", 'echo "$A $B"'], 0, "1 two words"),
        (["-w", "/home/app", "busybox", "pwd"], 0, "/home/app"),
        (["-w", "/new/dir", "busybox", "pwd"], 127, ""),
        (["--hostname", "box", "busybox", "hostname"], 0, "box"),
        (["--entrypoint", "echo", "busybox", "a", "b"], 0, "a b"),
        (["--entrypoint", '["echo","x"]', "busybox", "y"], 0, "x y"),
        (["--read-only", "busybox", "sh", "-c", "touch /x 2>/dev/null || echo refused; touch /tmp/y && echo tmp"], 0,
         "refused\ntmp"),
        (["--tmpfs", "/mnt:size=1m", "busybox", "sh", "-c", "df -k /mnt | tail -1 | awk '{print $2}'"], 0, "1024"),
        (["--umask", "0077", "busybox", "sh", "-c", "umask"], 0, "0077"),
        (["--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"], 0, "100\n200"),
        (["--shm-size", "2m", "busybox", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"], 0, "2048"),
        (["--network", "none", "busybox", "ls", "/sys/class/net"], 0, "lo"),
        (["--add-host", "dbhost:10.1.2.3", "busybox", "sh", "-c", "grep dbhost /etc/hosts | awk '{print $1}'"], 0, "10.1.2.3"),
        (["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"], 0, "NoNewPrivs:\t1"),
        (["busybox", "sh", "-c", "grep Seccomp: /proc/self/status"], 0, "Seccomp:\t2"),
        (["--security-opt", "seccomp=unconfined", "busybox", "sh", "-c", "grep Seccomp: /proc/self/status"], 0, "Seccomp:\t0"),
        (["--cap-drop", "all", "busybox", "grep", "CapEff", "/proc/self/status"], 0, "CapEff:\t0000000000000000"),
        (["busybox", "grep", "CapEff", "/proc/self/status"], 0, "CapEff:\t00000000800405fb"),
    ],
)
def test_run(lane: Rl, arguments: list[str], code: int, output: str) -> None:
    done = lane("run", "--rm", *arguments)
    assert (done.returncode, done.stdout.removesuffix("\n")) == (code, output), done.stderr
    assert lane.containers() == []


def test_users(lane: Rl) -> None:
    show = "id -u; id -g; id -G"
    if lane.lane == "single":
        done = lane("run", "--rm", "-u", "app", "busybox", "true")
        assert done.returncode == 125 and "not in the container's id map" in done.stderr and "usermod" in done.stderr
        assert lane.ok("run", "--rm", "busybox", "id", "-u") == "0"
        return
    assert lane.ok("run", "--rm", "-u", "app", "busybox", "sh", "-c", show).split("\n") == ["1000", "1000", "1000 2000"]
    assert lane.ok("run", "--rm", "-u", "1234:5678", "busybox", "sh", "-c", "id -u; id -g").split() == ["1234", "5678"]
    assert lane.ok("run", "--rm", "-u", "app", "busybox", "sh", "-c", "echo $HOME; touch ~/x && echo ok") == "/home/app\nok"


def test_stdin_and_stderr_stay_apart(lane: Rl) -> None:
    done = lane("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo error >&2; exit 3", input="from stdin\n")
    assert (done.stdout, done.stderr, done.returncode) == ("from stdin\n", "error\n", 3)


def test_large_output_arrives_complete(lane: Rl) -> None:
    done = lane("run", "--rm", "busybox", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x")
    assert len(done.stdout) == 20_000_000 and set(done.stdout) == {"x"}


def test_detached_life(lane: Rl) -> None:
    """run -d, ps, logs, exec, inspect, top, stop, start, rm."""
    container = lane.ok("run", "-d", "--name", "web", "--stop-timeout", "1", "busybox", "sh", "-c",
                        "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done")
    assert len(container) == 64
    eventually(lambda: "up" in lane.ok("logs", "web"))
    assert lane.ok("ps", "--format", "{{.Names}} {{.State}}") == "web running"
    assert lane.ok("exec", "web", "sh", "-c", "echo in; exit 0") == "in"
    assert lane("exec", "web", "sh", "-c", "exit 9").returncode == 9
    assert lane("exec", "web", "no-such").returncode == 127
    assert lane("exec", "web", "/etc/not-executable").returncode == 126
    assert lane.ok("inspect", "--format", "{{.State.Status}} {{.State.Running}}", "web") == "running true"
    assert "sleep" in lane.ok("top", "web") or "sh" in lane.ok("top", "web")
    assert lane.ok("stop", "-t", "5", "web") == "web"
    assert lane.ok("inspect", "--format", "{{.State.ExitCode}} {{.State.Status}}", "web") == "5 exited"
    assert lane.ok("logs", "web").split() == ["up", "bye"]
    assert lane.ok("wait", "web") == "5"
    assert lane.ok("start", "web") == "web"
    eventually(lambda: lane.ok("logs", "web").count("up") == 2)
    done = lane("rm", "web")
    assert done.returncode == 2 and "running" in done.stderr
    assert lane.ok("rm", "-f", "-t", "0", "web") == "web"
    assert lane.containers() == []


def test_files_survive_stop_and_start(lane: Rl) -> None:
    lane.ok("create", "--name", "keeper", "busybox", "sh", "-c", "cat /state 2>/dev/null; echo again >> /state")
    for expected in ("", "again", "again\nagain"):
        assert lane.ok("start", "--attach", "keeper") == expected
    lane.ok("rm", "keeper")


def test_published_port(lane: Rl) -> None:
    port = free_port()
    serve = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nserved' | nc -l -p 80; done"
    lane.ok("run", "-d", "--name", "server", "-t", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c", serve)
    assert "served" in str(eventually(lambda: fetch(port)))
    assert lane.ok("port", "server") == f"80/tcp -> 127.0.0.1:{port}"
    lane.ok("rm", "-f", "-t", "0", "server")
    assert fetch(port) == ""


def test_volumes(lane: Rl, tmp_path: Path) -> None:
    shared = lane.user.home / "shared"
    lane.user.run("mkdir", "-p", str(shared), check=True)
    lane.ok("run", "--rm", "-v", f"{shared}:/data", "busybox", "sh", "-c", "echo mine > /data/file")
    assert (shared / "file").read_text() == "mine\n"
    assert (shared / "file").stat().st_uid == lane.user.uid
    done = lane("run", "--rm", "-v", f"{shared}:/data:ro", "busybox", "touch", "/data/x")
    assert done.returncode == 1 and "Read-only" in done.stderr
    lane.ok("run", "--rm", "-v", "named:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert lane.ok("run", "--rm", "-v", "named:/data", "busybox", "cat", "/data/file") == "kept"
    lane.user.run("rm", "-r", str(shared), check=True)


def test_started_again(lane: Rl) -> None:
    """By its policy, in the same monitor: writable layer, published port and id map are there each time."""
    script = "echo run; echo x >> /f; test $(wc -l < /f) = 2 && exit 0; exit 1"
    words = ("--restart=on-failure:2", "-p", f"127.0.0.1:{free_port()}:80", "busybox", "sh", "-c", script)
    done = lane("run", "--rm", *words)
    assert (done.returncode, done.stdout) == (0, "run\n" * 2), done.stderr
    mapped = "--userns=host" if lane.lane == "single" else "--userns=keep-id"
    done = lane("run", "--rm", "-t", mapped, "--restart=on-failure:1", "busybox", "sh", "-c", "tty; exit 3")
    assert (done.returncode, done.stdout) == (3, "/dev/pts/0\n" * 2), done.stderr


def test_nothing_is_left(lane: Rl) -> None:
    """After everything ended: no process, no run directory, no mount, no trash."""
    lane.clean()
    eventually(lambda: not list((lane.run_dir / "containers").iterdir()))
    assert list((lane.data / "containers").iterdir()) == []
    assert list((lane.data / "names").iterdir()) == []
    assert list((lane.data / "trash").iterdir()) == []
    time.sleep(0.2)
    assert [line for line in lane.user.processes() if "rl" in line or "pasta" in line or "slirp" in line] == []
