"""Real images from a real registry: nginx through a published port, PostgreSQL on a volume, Python."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from support import users
from support.registry import Registry
from system.conftest import Rl, disk_usage, eventually, fetch, free_port, make_lane, unique_user


@pytest.fixture(scope="module", params=("user", "fuse", "slirp", "root"))
def pulled(request: pytest.FixtureRequest, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rl]:
    """A lane that has pulled nothing yet."""
    rl = make_lane(request.param, tmp_path_factory.mktemp("lane"))
    yield rl
    rl.clean()
    users.wipe(rl.user)


def test_nginx(pulled: Rl, registry: Registry) -> None:
    """The first thing that must exist: pull, run, reach, logs, exec on a terminal, stop, inspect, rm, rmi."""
    rl, port = pulled, free_port()
    image = f"{registry.host}/nginx"
    rl.ok("run", "-d", "--name", "web", "-p", f"{port}:80", image)
    page = str(eventually(lambda: fetch(port, "/?from=test")))
    assert "Welcome to nginx" in page
    assert "GET /?from=test" in str(eventually(lambda: rl.ok("logs", "web")))
    assert _terminal(rl, ["exec", "-it", "web", "sh"]) == "80 132"
    assert rl.ok("stop", "web") == "web"
    assert rl.ok("inspect", "--format", "{{.State.ExitCode}}", "web") == "0"
    assert rl.ok("rm", "web") == "web"
    before = disk_usage(rl.data)
    assert before > 50 << 20
    rl.ok("rmi", image)
    assert disk_usage(rl.data) < 1 << 20
    assert rl.ok("images", "-q") == ""


def _terminal(rl: Rl, arguments: list[str]) -> str:
    """What `stty size` says in a session on a real terminal after it was resized, and job control works."""
    master, slave = pty.openpty()
    _resize(slave, 24, 80)
    process = rl.user.popen("rl", *rl.flags, *arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                            preexec_fn=lambda: _controlling(slave))
    os.close(slave)
    try:
        text = ""

        def until(pattern: str) -> str:
            nonlocal text
            end = time.monotonic() + 20
            while not (found := re.search(pattern, text)):
                ready, _, _ = select.select([master], [], [], max(0.0, end - time.monotonic()))
                assert ready, f"no {pattern!r} in {text!r}"
                text += os.read(master, 65536).decode(errors="replace")
            text = text[found.end():]
            return found[0]

        until(r"[#$] ")
        os.write(master, b"sleep 100\n")
        time.sleep(0.3)
        os.write(master, b"\x1a")  # ^Z: only a shell with job control gives the prompt back
        until(r"(?i)stopped")
        os.write(master, b"kill -KILL %1; wait; echo on-'terminal'; tty\n")
        until(r"on-terminal\r\n/dev/pts/\d+")
        _resize(master, 80, 132)
        time.sleep(0.5)
        os.write(master, b"stty size | sed 's/^/size=/'\n")
        size = until(r"size=\d+ \d+").removeprefix("size=")
        os.write(master, b"exit 0\n")
        assert process.wait(20) == 0
        return size
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _controlling(fd: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def _resize(fd: int, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _sql(port: int, statement: str) -> str:
    done = subprocess.run(
        ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-Atc", statement],
        capture_output=True, text=True, timeout=30, env={**os.environ, "PGCONNECT_TIMEOUT": "3"},
    )
    return done.stdout.strip()


def test_postgresql_keeps_its_data(pulled: Rl, registry: Registry) -> None:
    """Runs as a user that is not root, on a named volume, across rm and a new run."""
    rl, port = pulled, free_port()
    run = ["run", "-d", "--name", "db", "-p", f"127.0.0.1:{port}:5432", "-v", "pgdata:/var/lib/postgresql/data",
           f"{registry.host}/postgres"]
    rl.ok(*run, timeout=300)
    eventually(lambda: _sql(port, "select 1") == "1", 60)
    _sql(port, "create table t (x int); insert into t values (41), (1)")
    assert _sql(port, "select sum(x) from t") == "42"
    assert "postgres" in rl.ok("exec", "db", "id", "-un")
    rl.ok("stop", "db")
    assert rl.ok("inspect", "--format", "{{.State.ExitCode}}", "db") == "0"
    rl.ok("rm", "db")
    rl.ok(*run)
    eventually(lambda: _sql(port, "select sum(x) from t") == "42", 60)
    rl.ok("rm", "-f", "-t", "2", "db")


def test_python_image(pulled: Rl, registry: Registry) -> None:
    code = "import os, sys; print(sys.version_info >= (3, 9), os.getcwd(), os.environ['LANG'])"
    assert pulled.ok("run", "--rm", f"{registry.host}/python", "python3", "-c", code) == "True /srv C.UTF-8"


def test_pull_twice_shares_layers(registry: Registry, busybox_archive: object) -> None:
    rl = Rl(unique_user("rltest-share"))
    image = f"{registry.host}/busybox"
    first = rl.ok("pull", "-q", image)
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert rl.ok("pull", "-q", image) == first
    rl.ok("tag", image, "mine:1")
    assert rl.ok("rmi", image).startswith("Untagged")
    assert rl.ok("run", "--rm", "mine:1", "echo", "still here") == "still here"
    rl.ok("rmi", "mine:1")
    assert list((rl.data / "layers").iterdir()) == []
    users.wipe(rl.user)
