"""CVE-2019-5736: the container must not get at the interpreter or the processes that run the engine.

Each installation is a user's own, so its interpreter may be written with the user's rights, which is what root in the
container has.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from escape.conftest import Install, Installation
from support import users
from support.bundles import Lab
from system.conftest import Rl, eventually

BOX = ("run", "--rm", "--network=none")

NO_LOOK = {"rl/runtime/launch.py": [("        _refuse_ourselves(candidate)\n", "        pass\n")]}
NO_LAUNCHER = {"rl/runtime/process.py": [("    if setup.exposed:\n        setup.launcher", "    if False:\n        setup.launcher")]}
DUMPABLE = {
    "rl/runtime/process.py": [("    kp.prctl(kp.PR_SET_DUMPABLE, 0)\n", "    kp.prctl(kp.PR_SET_DUMPABLE, 1)\n")],
    "rl/runtime/spawning.py": [("    kp.prctl(kp.PR_SET_DUMPABLE, 0)\n", "    kp.prctl(kp.PR_SET_DUMPABLE, 1)\n")],
}
EVIL = ["/evil/script", "/evil/link", "/evil/by-link", "/evil/by-script", "/evil/loaded", "/evil/thread", "/proc/self/exe"]


def _run_and_exec(rl: Installation, *commands: str) -> list[tuple[str, int, str]]:
    """Each command as entry point, and by exec: exit codes and all that was said."""
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "120")
    found = []
    for command in commands:
        for words in (("run", "--rm", "--network=none", "--entrypoint", command, "attack"), ("exec", "box", command)):
            done = rl(*words)
            found.append((command, done.returncode, done.stdout + done.stderr))
    rl.clean()
    return found


def test_entry_points_that_lead_to_the_interpreter(install: Install) -> None:
    rl = install("own")
    before = rl.state()
    for command, code, text in _run_and_exec(rl, *EVIL):
        assert code == 126 and "refused" in text, (command, text)
    assert rl.state() == before


def test_launcher_alone_holds(install: Install) -> None:
    """As if every look before the execution had lost its race."""
    rl = install("nolook", NO_LOOK)
    before = rl.state()
    for command, code, text in _run_and_exec(rl, *EVIL):
        assert code == 126 and "inode" not in text, (command, text)
    assert rl.state() == before


def test_control_without_both(install: Install) -> None:
    rl = install("nothing", {**NO_LOOK, **NO_LAUNCHER})
    mode, content, owner = rl.state()
    _, code, text = _run_and_exec(rl, "/evil/script")[0]
    assert f"inode {rl.interpreter.stat().st_ino}" in text, (code, text)
    assert rl.state() == (0o777, content, owner) and mode == 0o755  # the host's file was changed from inside


def test_real_root(install: Install) -> None:
    """Without a user namespace root in the container is the host's: any interpreter is within its reach."""
    rl = install("root-nolook", NO_LOOK)
    before = rl.state()
    for _, code, text in _run_and_exec(rl, "/evil/script"):
        assert code == 126 and "inode" not in text, text
    assert rl.state() == before
    control = install("root-nothing", {**NO_LOOK, **NO_LAUNCHER})
    assert f"inode {control.interpreter.stat().st_ino}" in _run_and_exec(control, "/evil/script")[0][2]
    assert control.state()[0] == 0o777


def test_system_interpreter_needs_no_launcher(rl: Rl) -> None:
    """The usual case costs nothing: root's interpreter cannot be written by an ordinary user, nor by its containers."""
    done = rl.user.run("strace", "-f", "-qq", "-e", "trace=memfd_create,execveat", "rl", *BOX, "attack", "true", check=True)
    assert "execveat" not in done.stderr
    done = rl.user.run("strace", "-f", "-qq", "-e", "trace=memfd_create,execveat", "rl", *BOX, "attack", "/evil/script")
    assert done.returncode == 126


def test_launcher_is_used_where_it_is_needed(install: Install) -> None:
    rl = install("own")
    done = rl.user.run("strace", "-f", "-qq", "-e", "trace=execveat", "rl", *BOX, "attack", "true", check=True)
    assert "AT_EMPTY_PATH) = 0" in done.stderr


def _imports(rl: Rl, trace: Path, words: tuple[str, ...], entered: str) -> tuple[int, list[str]]:
    """Files of Python's looked for by processes that are inside, after system call *entered*: (processes, lines)."""
    # By root: the user's own strace cannot read the names, as the processes are not dumpable.
    command = ["strace", "-u", rl.user.name, "-f", "-qq", "-o", str(trace), "-e", "trace=execve,pivot_root,setns,%file"]
    subprocess.run([*command, "rl", *words], env=rl.user.env(), cwd=rl.user.home, capture_output=True, timeout=60)
    lines = [line.split(None, 1) for line in trace.read_text().splitlines()]
    caller = lines[0][0]
    inside: set[str] = set()
    found = []
    began = executed = False
    for pid, call in lines:
        if call.startswith(entered) and pid != caller:
            began = True
            inside.add(pid)
        elif began and entered == "setns(" and pid != caller:
            inside.add(pid)  # the next child
        if pid in inside and call.startswith("execve("):
            executed = True  # the command has its own files
        if pid in inside and not executed and any(sign in call for sign in (".py", "site-packages", "lib/python", "lib-dynload")):
            found.append(call)
    return len(inside), found


@pytest.mark.parametrize(
    "words", [("true",), ("/etc/passwd",), ("/evil/script",), ("nosuch",)], ids=lambda words: words[0]
)
def test_nothing_is_imported_inside(rl: Rl, tmp_path: Path, words: tuple[str, ...]) -> None:
    """After pivot_root or setns an import would run the container's files with the caller's memory and rights."""
    trace = tmp_path / "trace"
    flags = ("--ulimit", "nofile=50", "--user", "1000", "--workdir", "/tmp", "-t")
    processes, found = _imports(rl, trace, (*BOX, *flags, "attack", *words), "pivot_root(")
    assert (processes, found) == (1, [])
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    processes, found = _imports(rl, trace, ("exec", "--user", "1000", "box", *words), "setns(")
    assert processes >= 1 and found == []


def test_control_an_import_inside_is_seen(install: Install, tmp_path: Path) -> None:
    late = {"rl/runtime/process.py": [("    setup.sync.ready(", "    import decimal  # noqa\n    setup.sync.ready(")]}
    rl = install("late", late)
    processes, found = _imports(rl, tmp_path / "trace", (*BOX, "attack", "true"), "pivot_root(")
    assert processes == 1 and found


@pytest.mark.parametrize(
    "flags", [(), ("--user", "1000"), ("--user", "1000", "--cap-add", "NET_RAW"), ("--cap-drop", "all"), ("--privileged",),
              ("--security-opt", "no-new-privileges"), ("--ulimit", "nofile=20:30")]
)
def test_command_is_the_same_through_the_launcher(rl: Rl, install: Install, flags: tuple[str, ...]) -> None:
    """Capabilities, ids, signals, filter, limits, descriptors: nothing more and nothing less."""
    script = "grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:|Sig[BIC])' /proc/self/status; ls /proc/self/fd; cat /proc/self/limits; env | sort"
    same = [installed.ok(*BOX, "--hostname=h", *flags, "attack", "sh", "-c", script) for installed in (rl, install("own"))]
    assert same[0] == same[1] and "CapEff" in same[0]


def test_container_ends_with_its_monitor(install: Install) -> None:
    """The parent-death signal survives both executions."""
    rl = install("own")
    identity = rl.ok("run", "-d", "--network=none", "attack", "sleep", "60")
    init = int(rl.ok("inspect", "-f", "{{.State.Pid}}", identity))
    os.kill(int((rl.run_dir / f"containers/{identity}/lock").read_text()), 9)
    eventually(lambda: not os.path.exists(f"/proc/{init}"))


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
@pytest.mark.parametrize("names", [["execveat"], ["memfd_create", "execveat", "mknod"]])
def test_filters_that_forbid_what_the_launcher_needs(install: Install, names: list[str], action: str) -> None:
    """Then the look before is what is left; the container runs."""
    rl = install("own")
    profile = rl.user.home / "profile.json"
    rules = [{"names": names, "action": action}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    for flags in ((), ("--security-opt", "no-new-privileges")):
        where = ("--security-opt", f"seccomp={profile}", *flags)
        assert rl.ok(*BOX, *where, "attack", "echo", "there") == "there"
        assert rl(*BOX, *where, "attack", "/evil/script").returncode == 126
        assert rl(*BOX, *where, "attack", "/no/such").returncode == 127


def _race(rl: Installation, seconds: float) -> int:
    """A process of the container exchanges a harmless script and an evil one while exec starts it; rounds made."""
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sh", "-c",
          "cp /evil/script /tmp/a; cp /evil/script /tmp/b; printf '#!/bin/true\\n' >/tmp/b; exec attack flip /tmp/a /tmp/b 60")
    before = rl.state()
    rounds, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and rl.state() == before:
        done = rl("exec", "box", "/tmp/a")
        assert done.returncode in (0, 126, 127), done
        rounds += 1
    rl.clean()
    return rounds


def test_race_between_look_and_exec(install: Install) -> None:
    rl = install("own")
    before = rl.state()
    assert _race(rl, 6) > 10
    assert rl.state() == before


def test_control_race_is_won_without_the_launcher(install: Install) -> None:
    rl = install("nolauncher", NO_LAUNCHER)
    before = rl.state()
    rounds = _race(rl, 60)
    assert rl.state() != before, f"not once in {rounds} rounds: the attack is too slow to prove anything"


def _peek(rl: Installation, *flags: str) -> dict[str, int]:
    """What a process in the container gets at of the runtime's processes while `rl exec` starts others beside it."""
    rl.ok("run", "-d", "--name", "box", "--network=none", *flags, "attack", "attack", "peek",
          str(rl.interpreter.stat().st_ino), "3")
    end = time.monotonic() + 20
    while time.monotonic() < end and rl("exec", "box", "true").returncode == 0:
        pass
    rl.ok("wait", "box")
    words = rl.ok("logs", "box").split()
    rl.clean()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.parametrize("flags", [(), ("--cap-add", "SYS_PTRACE"), ("--privileged",)])
def test_processes_of_the_runtime_are_closed(install: Install, flags: tuple[str, ...]) -> None:
    """/proc/PID/exe, environ, ptrace(2) and process_vm_readv(2) of exec's child inside the pid namespace."""
    found = _peek(install("own"), *flags)
    assert found.pop("rounds") > 10 and found.pop("seen") > 10, found
    assert set(found.values()) == {0}, found


def test_control_dumpable_processes_are_open(install: Install) -> None:
    rl = install("dumpable", DUMPABLE)
    for _ in range(5):
        found = _peek(rl, "--cap-add", "SYS_PTRACE")
        if found["exe"] and found["environ"]:
            return
    raise AssertionError(found)


def test_runtime_program_starts_through_the_launcher(tmp_path: Path) -> None:
    """`rl-runtime create` and `start` as root: the socket that start comes from is where the launcher reports to."""
    lab = Lab(users.root(tmp_path / "home"), tmp_path / "lab")
    (lab.bundle / "rootfs/bin/broken").write_bytes(b"\x7fELF, not quite")
    (lab.bundle / "rootfs/bin/broken").chmod(0o755)
    for command, code, text in ((["/bin/broken"], 1, "exec format error"), (["sh", "-c", "exit 3"], 0, "")):
        lab.write(command)
        lab.ok("create", "c1")
        try:
            init = lab.state("c1")["pid"]
            tracer = subprocess.Popen(
                ["strace", "-qq", "-e", "trace=execveat,execve,write", "-p", str(init)], stderr=subprocess.PIPE, text=True
            )
            attached = f"\nTracerPid:\t{tracer.pid}\n"
            eventually(lambda seen=attached, pid=init: seen in Path(f"/proc/{pid}/status").read_text())
            done = lab("start", "c1")
            assert (done.returncode, text in done.stderr) == (code, True), done
            assert "AT_EMPTY_PATH) = 0" in tracer.communicate(timeout=20)[1]
        finally:
            lab("delete", "--force", "c1")
