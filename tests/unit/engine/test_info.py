"""info, version and unshare as an engine verb: on the host the test runs on, no expectations of what it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rl
from rl.config.paths import Paths
from rl.engine import hostfacts, ladder
from rl.engine.context import Engine
from rl.engine.info import info
from rl.engine.spec import logs
from rl.engine.unshare import unshare
from rl.engine.version import version
from rl.errors import CommandNotExecutableError, CommandNotFoundError, RlError, UnsupportedError
from rl.runtime import userns


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(str(tmp_path / "data"), str(tmp_path / "run"), str(tmp_path / "config"), str(tmp_path / "cache"))
    paths.ensure()
    return Engine(paths)


def test_document(engine: Engine) -> None:
    warnings: list[str] = []
    engine.warn = warnings.append
    found = info(engine)
    host, store = found["host"], found["store"]
    assert host["hostname"] == os.uname().nodename and host["kernel"] == os.uname().release
    assert host["memTotal"] > host["memFree"] > 0 and host["cpus"] >= 1
    assert host["security"]["rootless"] is (os.getuid() != 0)
    assert host["ociRuntime"]["name"] == "rl"
    assert store["graphRoot"] == engine.paths.data and store["graphRootAllocated"] >= store["graphRootUsed"] > 0
    assert store["containerStore"] == {"number": 0, "paused": 0, "running": 0, "stopped": 0}
    assert store["imageStore"] == {"number": 0}
    assert found["version"]["Version"] == rl.__version__
    for need in ("ids", "rootfs", "network", "limits", "logs"):
        answer = found["rl"][need]
        assert answer["inUse"] and answer["reason"], need
    assert store["graphDriverName"] == found["rl"]["rootfs"]["inUse"]
    assert warnings == []


def test_names_of_go_fields(engine: Engine) -> None:
    found = info(engine)
    assert found["Host"]["Security"]["Rootless"] is found["host"]["security"]["rootless"]
    assert found["Host"]["CgroupsVersion"] in ("v1", "v2") and "MemTotal" in found["Host"]
    assert "Nothing" not in found["Host"]
    with pytest.raises(KeyError):
        found["Host"]["Nothing"]


def test_broken_files_do_not_hide_the_rest(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.conf"
    broken.write_text("[engine\nx")
    for name in ("CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_CONF"):
        monkeypatch.setenv(name, str(broken))
    (Path(engine.paths.containers) / ("a" * 64)).mkdir()
    (Path(engine.paths.containers) / ("a" * 64) / "state.json").write_text("{nonsense")
    warnings: list[str] = []
    engine.warn = warnings.append
    found = info(engine)
    assert found["rl"]["rootfs"]["inUse"] == "none" and str(broken) in found["rl"]["rootfs"]["reason"]
    assert found["rl"]["network"]["inUse"] == "none" and found["rl"]["limits"]["inUse"]
    assert any("a" * 64 in warning for warning in warnings) and any(str(broken) in warning for warning in warnings)


def test_storage_driver_that_was_asked_for(engine: Engine) -> None:
    engine.options["storage_driver"] = "copy"
    found = info(engine)
    if found["rl"]["ids"]["inUse"] == "none":
        pytest.skip("no user namespaces here")
    assert found["rl"]["rootfs"]["inUse"] == "copy" and "--storage-driver" in found["rl"]["rootfs"]["reason"]


def test_an_external_runtime_is_named(engine: Engine) -> None:
    engine.options["runtime"] = sys.executable  # any program answers --version
    runtime = info(engine)["host"]["ociRuntime"]
    assert runtime["path"] == sys.executable and "Python" in runtime["version"]


def test_log_drivers_are_those_of_create() -> None:
    assert ladder.LOG_DRIVERS == logs.DRIVERS


def test_version(engine: Engine) -> None:
    client = version(engine)["Client"]
    assert client["Version"] == client["APIVersion"] == rl.__version__
    assert client["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert client["OsArch"].startswith("linux/") and client["Built"] > 0
    assert client["GitCommit"] == "" or len(client["GitCommit"]) == 40


def test_file_system_of_proc_and_a_directory(tmp_path: Path) -> None:
    assert hostfacts.file_system("/proc/self") == "proc"
    assert hostfacts.file_system(str(tmp_path)) != "unknown"


def test_programs() -> None:
    assert hostfacts.program("no-such-program") == {"executable": "", "package": "", "version": ""}
    assert hostfacts.package_of("/no/such/file") == ""


def in_child(action: Callable[[], int], stdin: str = "/dev/null") -> tuple[int, str]:
    """(exit status, output) of *action* in a child, as the command line would end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(os.open(stdin, os.O_RDONLY), 0)
            os.dup2(write_end, 1)
            os.close(read_end)
            os.close(write_end)
            status = action()
        except RlError as error:
            os.write(1, type(error).__name__.encode())
            status = error.exit_code
        finally:
            os._exit(status)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


def can_enter(engine: Engine) -> bool:
    try:
        userns.call(engine.paths.run, userns.current_mode)
    except RlError:
        return False
    return True


def test_unshare(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_enter(engine):
        pytest.skip("no user namespaces here")
    script = 'echo "$(id -u) $CONTAINERS_GRAPHROOT $_CONTAINERS_ROOTLESS_UID"; grep SigIgn /proc/self/status; exit 9'
    status, output = in_child(lambda: unshare(engine, ["sh", "-c", script]))
    assert status == 9
    first, ignored = output.splitlines()
    assert first == f"0 {engine.paths.data} {os.getuid()}"
    assert int(ignored.split()[1], 16) & (1 << 12 | 1 << 24) == 0  # SIGPIPE, SIGXFSZ
    assert in_child(lambda: unshare(engine, ["no-such-program"])) == (127, CommandNotFoundError.__name__)
    assert in_child(lambda: unshare(engine, ["/no/such/program"])) == (127, CommandNotFoundError.__name__)
    assert in_child(lambda: unshare(engine, ["/etc/passwd"])) == (126, CommandNotExecutableError.__name__)
    script_file = tmp_path / "script"
    script_file.write_text("#!/no/such/interpreter\n")
    script_file.chmod(0o755)
    assert in_child(lambda: unshare(engine, [str(script_file)])) == (126, CommandNotExecutableError.__name__)
    commands = tmp_path / "commands"
    commands.write_text("echo from the shell; exit 4\n")
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert in_child(lambda: unshare(engine, []), str(commands)) == (4, "from the shell\n")


def test_unshare_rootless_netns(engine: Engine) -> None:
    with pytest.raises(UnsupportedError) as caught:
        unshare(engine, ["true"], rootless_netns=True)
    assert "nsenter" in caught.value.hint
