"""The program between interpreter and command: its bytes, what it does, when it is used (CVE-2019-5736)."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import platform
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rl.errors import CommandNotExecutableError, CommandNotFoundError
from rl.kernel import execfd
from rl.runtime import launch, launcher
from rl.runtime.seccomp import compiler, default_profile, program_for
from unit.runtime.container_lab import busybox

ASSEMBLERS = {"x86_64": ("as", ".intel_syntax noprefix\n"), "aarch64": ("aarch64-linux-gnu-as", "")}
EMULATOR = "qemu-aarch64"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_bytes_are_what_the_assembler_makes_of_the_text(machine: str, tmp_path: Path) -> None:
    assembler, prologue = ASSEMBLERS[machine]
    prefix = assembler.removesuffix("as")
    text = "\n".join(line.partition("|")[2] for line in launcher._PROGRAMS[machine][1].splitlines())
    (tmp_path / "a.s").write_text(f"{prologue}.text\n{text}\n.long 0x12345\n")
    subprocess.run([assembler, "-o", tmp_path / "a.o", tmp_path / "a.s"], check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", tmp_path / "a.o", tmp_path / "a.bin"], check=True)
    assert launcher.image(machine, 0x12345)[64 + 2 * 56 :] == (tmp_path / "a.bin").read_bytes()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_elf_is_well_formed(machine: str, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(launcher.image(machine, 3))
    done = subprocess.run(["readelf", "-hlW", tmp_path / "program"], capture_output=True, text=True, check=True)
    assert "EXEC" in done.stdout and "R E" in done.stdout and "GNU_STACK" in done.stdout
    assert not done.stderr  # readelf's warnings
    assert len(launcher.image(machine, 3)) < 512


class Lab:
    """Runs the program of one machine and collects packet, exit code, output."""

    def __init__(self, machine: str, base: Path) -> None:
        self.machine = machine
        self.base = base
        self.packet = b""

    def run(self, paths: list[str], arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        fd = theirs.fileno()
        program = self.base / f"launcher-{fd}"
        program.write_bytes(launcher.image(self.machine, fd))
        program.chmod(0o755)
        argv = [*paths, "", *arguments]
        if self.machine != platform.machine():
            argv = [EMULATOR, "-0", argv[0], str(program), *argv[1:]] if argv else []
            program = Path(shutil.which(EMULATOR) or "")
        done = subprocess.run(
            argv, executable=program, env=environment, pass_fds=[fd], capture_output=True, text=True, timeout=30
        )
        theirs.close()
        self.packet = ours.recv(8192)
        ours.close()
        return done.returncode, done.stdout


@pytest.fixture(params=["x86_64", "aarch64"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return Lab(request.param, tmp_path)


def test_command_gets_arguments_environment_and_no_descriptor(lab: Lab, tmp_path: Path) -> None:
    script = 'echo "$0|$1|$2|$A|$B"; ls /proc/self/fd | wc -l'
    code, output = lab.run([busybox()], ["sh", "-c", script, "a b", "", "c"], {"A": "1", "B": "x y"})
    assert (code, output.split("\n")) == (0, ["a b||c|1|x y", "4", ""])  # 0, 1, 2 and the listing itself
    assert lab.packet == b""


def test_looks_further_after_eacces_only(lab: Lab, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.write_text("")
    closed.chmod(0o644)
    broken = tmp_path / "broken"
    broken.write_text("nothing")
    broken.chmod(0o755)
    assert lab.run([str(closed), str(tmp_path), busybox()], ["echo", "hi"], {}) == (0, "hi\n")
    for paths, number, blamed in (
        ([str(closed)], errno.EACCES, closed),
        ([str(closed), str(tmp_path)], errno.EACCES, closed),  # the first is what is reported
        ([str(tmp_path / "none")], errno.ENOENT, tmp_path / "none"),
        ([str(closed), str(broken), busybox()], errno.ENOEXEC, broken),
    ):
        code, _ = lab.run(paths, ["x"], {})
        assert code == 126
        assert launcher.parse(lab.packet) == (str(blamed), number), paths


def test_nothing_to_do_is_an_end() -> None:
    """As the interpreter of a script (the race won), or started by hand: no loop, no crash."""
    if platform.machine() not in launcher._PROGRAMS:
        pytest.skip("no launcher for this machine")
    fd = execfd.sealed_program("test", launcher.image(platform.machine(), 99))
    try:
        for argv in (["/proc/self/exe", "/script"], ["/proc/self/exe", "/script", "", "x"], [""]):
            done = subprocess.run(argv, executable=f"/proc/self/fd/{fd}", pass_fds=[fd], timeout=10, env={})
            assert done.returncode == 126, argv
    finally:
        os.close(fd)


def test_sealed_program_cannot_be_written() -> None:
    fd = execfd.sealed_program("test", b"data")
    try:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o111
        os.fchmod(fd, 0o777)
        other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        for attempt in (
            lambda: os.write(other, b"x"), lambda: os.truncate(other, 0), lambda: os.truncate(other, 100),
            lambda: fcntl.fcntl(other, 1033, 0),
        ):
            with pytest.raises(PermissionError):
                attempt()
        os.close(other)
    finally:
        os.close(fd)


def _child(candidates: list[str], descriptor_ok: bool = True) -> tuple[bytes, int]:
    """launch.execute with a launcher in a child: (packet, exit code)."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            ready = launcher.prepare(theirs.fileno())
            launch.execute(candidates, ["sh", "-c", "exit 7"], {}, ready)
        except Exception as error:
            theirs.send(b"E" + type(error).__name__.encode())
        finally:
            os._exit(1)
    theirs.close()
    packet = launcher.outcome(ours, os.pidfd_open(pid), 8192)
    ours.close()
    return packet, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_execute_through_the_launcher(tmp_path: Path) -> None:
    assert _child([str(tmp_path), busybox()]) == (b"", 7)
    assert _child([str(tmp_path)])[0] == b"ECommandNotExecutableError"
    packet, code = _child([str(tmp_path / "none")])
    assert code == 126
    assert isinstance(launch.explain(*launcher.parse(packet)), CommandNotFoundError)
    (tmp_path / "text").write_text("x")
    (tmp_path / "text").chmod(0o755)
    assert isinstance(launch.explain(*launcher.parse(_child([str(tmp_path / "text")])[0])), CommandNotExecutableError)


def test_launcher_is_what_proc_self_exe_names(tmp_path: Path) -> None:
    """The positive control of the whole thing: without it the script would run the interpreter of this test."""
    script = tmp_path / "evil"
    script.write_text("#!/proc/self/exe\nimport os; os._exit(42)\n")
    script.chmod(0o755)
    assert _child([str(script)]) == (b"", 126)
    pid = os.fork()
    if pid == 0:
        try:
            launch.execute([str(script)], ["evil"], {"PYTHONHOME": os.environ.get("PYTHONHOME", "")})
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_parent_does_not_wait_for_a_stolen_descriptor() -> None:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    began = time.monotonic()
    timer = threading.Timer(5, theirs.close)
    timer.start()
    assert launcher.outcome(ours, os.pidfd_open(pid), 100) == b""  # our own copy of theirs is the thief's
    assert time.monotonic() - began < 4
    timer.cancel()
    timer.join()
    os.waitpid(pid, 0)
    theirs.close()
    ours.close()


def test_parse_takes_anything() -> None:
    for packet in (b"X", b"X\xff\xff\xff\xff", b"X\1\0\0\0\xff\xfe", b"X" + b"\xff" * 30000):
        path, number = launcher.parse(packet)
        assert launch.explain(path, number).message


@pytest.mark.parametrize(("policy", "used"), [(0, True), (1, True), (2, False)])
def test_policy_of_memfd(policy: int, used: bool) -> None:
    """vm.memfd_noexec (of a pid namespace, Linux 6.3): 2 forbids it; then the command is executed without."""
    if not os.path.exists("/proc/sys/vm/memfd_noexec") or os.getuid():
        pytest.skip("needs Linux 6.3 and root")
    program = "from rl.runtime import launch, launcher; through = launcher.prepare(9); print(through is not None, flush=True); " \
        f"import os; os.dup2(2, 9); launch.execute([{busybox()!r}], ['echo', 'there'], {{}}, through)"
    script = f"echo {policy} >/proc/sys/vm/memfd_noexec && exec {sys.executable} -c \"$0\""
    done = subprocess.run(["unshare", "-pf", "--mount-proc", "sh", "-c", script, program], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"{used}\nthere\n", done


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_are_asked_before(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter may kill who tries: so each call the launcher needs is judged by the program itself."""
    monkeypatch.setattr(launcher.k, "MACHINE", machine)
    arch = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[machine]
    assert launcher.permitted(None)
    for names, allowed in ((["mknodat", "bpf"], True), (["execveat"], False), (["fcntl"], False), (["write"], False), (["exit_group"], False)):
        for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
            rules = [{"names": names, "action": action}]
            program = compiler.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch], "syscalls": rules}, machine)
            assert launcher.permitted(program) is allowed, (names, action)
    listed = [{"names": ["fcntl", "execveat", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"}]
    profile = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "architectures": [arch], "syscalls": listed}
    assert launcher.permitted(compiler.compile_profile(profile, machine))
    first = {"index": 1, "value": 2, "op": "SCMP_CMP_NE"}
    listed[0] = {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [first]}
    assert not launcher.permitted(compiler.compile_profile(profile, machine))


def test_the_default_profile_permits_the_launcher() -> None:
    assert launcher.permitted(program_for(default_profile(["CAP_CHOWN"])))


NAMESPACE = [{"type": "user"}]


@pytest.mark.parametrize(
    ("owner", "mode", "spec", "wanted"),
    [
        (0, 0o755, None, True),  # these tests run as root: what is root's, a container of root could write
        (12345, 0o755, None, True),
        (0, 0o755, {"namespaces": NAMESPACE, "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}]}, False),
        (0, 0o755, {"namespaces": NAMESPACE, "uidMappings": [{"containerID": 5, "hostID": 0, "size": 1}]}, True),
        (100005, 0o555, {"namespaces": NAMESPACE, "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 6}]}, True),
        (100006, 0o755, {"namespaces": NAMESPACE, "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 6}]}, False),
        (0, 0o757, {"namespaces": NAMESPACE, "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 6}]}, True),
        (0, 0o775, {"namespaces": NAMESPACE, "gidMappings": [{"containerID": 0, "hostID": 0, "size": 6}]}, True),
        (0, 0o755, {"namespaces": NAMESPACE, "gidMappings": [{"containerID": 0, "hostID": 0, "size": 6}]}, False),
        # joined by path: its map is not known here
        (0, 0o755, {"namespaces": [{"type": "user", "path": "/x"}], "uidMappings": [{"hostID": 100000, "size": 6}]}, True),
    ],
)
def test_exposed(owner: int, mode: int, spec: dict[str, object] | None, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid():
        pytest.skip("needs root")
    values = list(os.stat("/proc/self/exe"))
    values[0], values[4], values[5] = stat.S_IFREG | mode, owner, 0
    monkeypatch.setattr(launcher.os, "stat", lambda path: os.stat_result(values))
    assert launcher.exposed({"linux": spec or {}}) is wanted
