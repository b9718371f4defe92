"""CVE-2019-5736: the container must not get at the interpreter or the processes that run the engine.

Each installation is a user's own, so its interpreter may be written with the user's rights, which is what root in the
container has.
"""

from __future__ import annotations

import time

import pytest

from escape.conftest import Install, Installation

NO_LOOK = {"rl/runtime/launch.py": [("        _refuse_ourselves(candidate)\n", "        pass\n")]}
NO_LAUNCHER = {"rl/runtime/process.py": [("    if setup.exposed:\n        setup.launcher", "    if False:\n        setup.launcher")]}
DUMPABLE = {
    "rl/runtime/process.py": [("    kp.prctl(kp.PR_SET_DUMPABLE, 0)\n", "    kp.prctl(kp.PR_SET_DUMPABLE, 1)\n")],
    "rl/runtime/child.py": [("    kp.prctl(kp.PR_SET_DUMPABLE, 0)\n", "    kp.prctl(kp.PR_SET_DUMPABLE, 1)\n")],
}
EVIL = ["/evil/script", "/evil/link", "/evil/by-link", "/evil/by-script", "/evil/loaded", "/evil/thread", "/proc/self/exe"]


def _run_and_exec(rl: Installation, command: str) -> list[tuple[int, str]]:
    """The command as entry point, and by exec: exit codes and all that was said."""
    done = [rl("run", "--rm", "--network=none", "--entrypoint", command, "attack")]
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    done.append(rl("exec", "box", command))
    rl.clean()
    return [(result.returncode, result.stdout + result.stderr) for result in done]


def test_entry_points_that_lead_to_the_interpreter(install: Install) -> None:
    rl = install("own")
    before = rl.state()
    for command in EVIL:
        for code, text in _run_and_exec(rl, command):
            assert code == 126 and "refused" in text, (command, text)
    assert rl.state() == before


def test_launcher_alone_holds(install: Install) -> None:
    """As if every look before the execution had lost its race."""
    rl = install("nolook", NO_LOOK)
    before = rl.state()
    for command in EVIL:
        for code, text in _run_and_exec(rl, command):
            assert code == 126 and "inode" not in text, (command, text)
    assert rl.state() == before


def test_control_without_both(install: Install) -> None:
    rl = install("nothing", {**NO_LOOK, **NO_LAUNCHER})
    mode, content, owner = rl.state()
    code, text = _run_and_exec(rl, "/evil/script")[0]
    assert f"inode {rl.interpreter.stat().st_ino}" in text, (code, text)
    assert rl.state() == (0o777, content, owner) and mode == 0o755  # the host's file was changed from inside


def _race(rl: Installation, seconds: float) -> int:
    """A process of the container exchanges a harmless script and an evil one while exec starts it; rounds made."""
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sh", "-c",
          "cp /evil/script /tmp/a; cp /evil/script /tmp/b; printf '#!/bin/true\\n' >/tmp/b; exec attack flip /tmp/a /tmp/b 30")
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
    rounds = _race(rl, 30)
    assert rl.state() != before, f"not once in {rounds} rounds: the attack is too slow to prove anything"


def _peek(rl: Installation, *flags: str) -> dict[str, int]:
    """What a process in the container gets at of the runtime's processes while `rl exec` starts others beside it."""
    rl.ok("run", "-d", "--name", "box", "--network=none", *flags, "attack", "attack", "peek",
          str(rl.interpreter.stat().st_ino), "4")
    for _ in range(12):
        rl("exec", "box", "true")
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
    found = _peek(install("dumpable", DUMPABLE), "--cap-add", "SYS_PTRACE")
    assert found["exe"] and found["environ"], found
