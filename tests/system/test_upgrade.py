"""rl system upgrade-monitors: another installation of rl takes over, and neither container nor clients notice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.conftest import Done, Rl, eventually


class Installation:
    """A copy of rl in a directory of its own, as another version would be."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        shutil.copytree(self._package(), directory / "rl")
        (directory / "helpers").mkdir()
        self.helper = directory / "helpers/rl-monitor"
        shutil.copy(Path(sys.prefix) / "libexec/rl/rl-monitor", self.helper)

    @staticmethod
    def _package() -> Path:
        code = "import rl, os; print(os.path.dirname(rl.__file__))"
        return Path(subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip())

    def upgrade(self, rl: Rl) -> Done:
        code = f"import sys; sys.path.insert(0, {str(self.root)!r}); sys.argv[0] = 'rl'; from rl.__main__ import main; sys.exit(main())"
        return rl.user.run(sys.executable, "-I", "-c", code, "system", "upgrade-monitors")

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def other() -> Iterator[Installation]:
    directory = Path(f"/var/tmp/rl-other-{os.getpid()}")
    directory.mkdir(mode=0o755)
    yield Installation(directory)
    shutil.rmtree(directory)


def monitor(rl: Rl, name: str) -> int:
    return int(rl.ok("inspect", "--format", "{{.State.ConmonPid}}", name))


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_nothing_is_lost(rl: Rl, other: Installation) -> None:
    """Output in flight, input that is not taken, a client that does not read, back-off: all go over, several times."""
    script = "i=0; while [ $i -lt 25 ]; do seq 1 2000; i=$((i+1)); sleep 0.02; done; cat > /dev/null; echo end"
    client = rl.user.popen("rl", "run", "-i", "--network=none", "--name=a", "busybox", "sh", "-c", script, stdin=-1, stdout=-1)
    assert client.stdin and client.stdout
    client.stdin.write(b"x" * 200_000)
    rl.ok("run", "-d", "--network=none", "--name=b", "--restart=always", "busybox", "sh", "-c", "echo run; exit 1")
    eventually(lambda: rl("inspect", "a").returncode == 0, every=0.02)
    pids = {name: monitor(rl, name) for name in "ab"}
    for _ in range(3):
        done = other.upgrade(rl)
        assert done.returncode == 0, done.stderr
        lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
        assert sorted(lines) == ["a: upgraded", "b: upgraded"]
    assert str(other.helper) in command_line(pids["a"])
    client.stdin.close()
    expected = "".join(f"{n}\n" for n in range(1, 2001)).encode() * 25 + b"end\n"
    assert client.stdout.read() == expected
    assert client.wait(20) == 0 and rl.ok("logs", "a").encode() + b"\n" == expected
    assert {name: monitor(rl, name) for name in "b"} == {"b": pids["b"]}
    before = rl.ok("inspect", "--format", "{{.RestartCount}}", "b")
    rl.ok("restart", "-t", "0", "b")  # with all of the other installation's engine
    eventually(lambda: int(rl.ok("inspect", "--format", "{{.RestartCount}}", "b")) > 0, every=0.05)
    assert int(before) >= 0
    rl.ok("stop", "-t", "0", "b")


def test_what_is_refused_changes_nothing(rl: Rl, other: Installation) -> None:
    rl.ok("run", "-d", "--network=none", "--name=a", "busybox", "sleep", "60")
    pid = monitor(rl, "a")
    eventually(lambda: "rl-monitor" in command_line(pid), every=0.02)
    before = command_line(pid)
    other.helper.chmod(0o666)
    done = other.upgrade(rl)
    assert done.returncode == 125 and "upgrade the monitor of container a" in done.stderr
    assert "others than its owner may write to it" in done.stderr and "old monitor goes on" in done.stderr
    other.helper.chmod(0o644)
    os.chown(other.helper, 12345, 12345)
    done = other.upgrade(rl)
    assert done.returncode == 125 and "belongs to neither root nor you" in done.stderr
    os.chown(other.helper, 0, 0)
    other.edit("rl/monitor/loop.py", "VERSION = 1", "VERSION = 0")
    done = other.upgrade(rl)
    assert done.returncode == 125 and "older than this monitor" in done.stderr
    other.edit("rl/monitor/loop.py", "VERSION = 0", "VERSION = nonsense")
    done = other.upgrade(rl)
    assert done.returncode == 125 and "does not run" in done.stderr
    assert command_line(pid) == before
    rl.ok("create", "--network=none", "--name=b", "busybox", "true")
    rl.ok("init", "b")
    done = rl("system", "upgrade-monitors")
    assert done.returncode == 125 and "initialized" in done.stderr and "a: upgraded" in done.stdout
    rl.ok("stop", "-t", "0", "a")
    assert json.loads(rl.ok("inspect", "a"))[0]["State"]["ExitCode"] == 137


def test_a_monitor_whose_code_was_replaced(rl: Rl, other: Installation) -> None:
    """Installed over the old one: what the old monitor would import is the new one's. It becomes that first."""
    rl.ok("run", "-d", "--network=none", "--name=a", "busybox", "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done")
    pid = monitor(rl, "a")
    assert other.upgrade(rl).returncode == 0
    other.edit("rl/monitor/loop.py", "VERSION = 1", "VERSION = 2")
    other.edit("rl/monitor/clients.py", "def export(self)", "def export(self, new: int = 0)")
    (other.root / "rl/monitor/ending.py").write_text("from rl.monitor.ending2 import *\n")
    shutil.copy(Installation._package() / "monitor/ending.py", other.root / "rl/monitor/ending2.py")
    rl.ok("stop", "a")
    assert rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "a") == "exited 4"
    assert not os.path.exists(f"/proc/{pid}/fd") or not os.listdir(f"/proc/{pid}/fd")


def test_nothing_runs(rl: Rl) -> None:
    done = rl("system", "upgrade-monitors")
    assert (done.returncode, done.stdout) == (0, "")
    assert rl("system", "upgrade-monitors", "x").returncode == 125
