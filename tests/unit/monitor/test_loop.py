"""The monitor itself: exit codes, streams, clients, input, terminals, killing. Each in both of its lives."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from unit.monitor.harness import Monitored, eventually, read_until, receive, resize

#: in the launching process for its whole life, or in the lean interpreter from the first moment
both = pytest.mark.parametrize("linger", [30.0, 0.001], ids=["forked", "lean"])


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@both
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
    ],
)
def test_exit_code(tmp_path: Path, linger: float, script: str, code: int) -> None:
    m = Monitored(str(tmp_path), sh(script), attach=True, linger=linger)
    _, info = receive(m.client)
    assert info == {"exit_code": code, "oom_killed": False, "error": ""}
    state = m.wait()
    assert (state["status"], state["exit_code"], state["pid"], state["oom_killed"]) == ("exited", code, 0, False)
    assert state["finished"].endswith("Z") and len(state["finished"]) == 30
    assert not os.path.exists(m.run)
    assert sorted(os.listdir(m.data)) == ["config.json", "ctr.log", "state.json"]


@both
def test_streams_and_log(tmp_path: Path, linger: float) -> None:
    m = Monitored(
        str(tmp_path), sh("echo one; echo two >&2; printf 'half'; printf ' more\\nend'"), attach=True, linger=linger
    )
    streams, info = receive(m.client)
    assert streams == {1: b"one\nhalf more\nend", 2: b"two\n"} and info
    m.wait()
    assert m.logged() == b"one\nhalf more\nend" and m.logged("stderr") == b"two\n"
    assert [tag for name, tag, _ in m.log_records() if name == "stdout"][-1] == "P"
    first = m.log_text().split(b" ")[0].decode()
    assert len(first) == len("2024-01-31T12:00:00.123456789+00:00") and first[-6] in "+-"


@both
def test_exact_through_attach_and_log(tmp_path: Path, linger: float) -> None:
    """100 MB of incompressible bytes come out of the first client as they went in."""
    size = 100 << 20
    script = f"""
import hashlib, os, sys
h = hashlib.sha256(); block = os.urandom(1 << 20)
for n in range({size >> 20}):
    b = n.to_bytes(4, "little") + block[4:]
    h.update(b); os.write(1, b) == len(b) or sys.exit("short")
os.write(2, h.hexdigest().encode())
"""
    m = Monitored(str(tmp_path), [sys.executable, "-c", script], attach=True, log={"driver": "none"}, linger=linger)
    got, told, total = hashlib.sha256(), b"", 0
    while packet := m.client.recv(1 << 17):
        if packet[0] == 1:
            got.update(packet[1:])
            total += len(packet) - 1
        elif packet[0] == 2:
            told += packet[1:]
    assert total == size and got.hexdigest() == told.decode()
    assert m.wait()["exit_code"] == 0


@both
def test_slow_first_client_loses_nothing(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("seq 1 400000; echo done >&2"), attach=True, linger=linger)
    time.sleep(0.5)
    assert os.path.getsize(m.log) < 10 << 20  # held back, as by a pipe, not buffered
    streams, info = receive(m.client)
    expected = b"".join(b"%d\n" % n for n in range(1, 400001))
    assert streams[1] == expected and streams[2] == b"done\n" and info
    m.wait()
    assert m.logged() == expected


@both
def test_slow_other_client_is_dropped_alone(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("read x; seq 1 400000; echo done >&2; read x"), stdin=True, linger=linger)
    slow, waiter, quick = m.attach(), m.attach(output=False), m.attach(stdin=True)
    quick.send(b"\0go\n")
    seen = bytearray()
    err = b""
    while not err:
        packet = quick.recv(1 << 17)
        if packet[0] == 1:
            seen += packet[1:]
        else:
            err = packet[1:]
    expected = b"".join(b"%d\n" % n for n in range(1, 400001))
    # stdout and stderr are two pipes: the rest of the first may come after the second
    while len(seen) < len(expected):
        seen += quick.recv(1 << 17)[1:]
    assert bytes(seen) == expected
    part = b""
    try:
        while packet := slow.recv(1 << 17):
            part += packet[1:]
    except ConnectionResetError:
        pass
    assert expected.startswith(part[: len(part) // 2]) and len(part) < len(expected)
    quick.send(b"\0\n")
    assert receive(waiter)[1] == {"exit_code": 0, "oom_killed": False, "error": ""}
    m.wait()
    assert m.logged() == expected


@both
def test_input_and_half_close(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), ["sha256sum"], stdin=True, attach=True, linger=linger)
    digest = hashlib.sha256()
    for n in range(200):
        data = bytes([n]) * 20000
        digest.update(data)
        m.client.send(b"\0" + data)
    m.client.send(b"\0")
    streams, info = receive(m.client)
    assert streams[1].split()[0].decode() == digest.hexdigest() and info
    m.wait()


@both
def test_nonsense_changes_nothing(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("read line; exit 7"), stdin=True, attach=True, linger=linger)
    for packet in (b"", b"\5{", b"\5[]", b"\5null", b"\5" + b"[" * 900, b"\5" + b"[" * 30000, b"\5\xff", b'\5{"stdin":1e999}',
                   b"\3a", b"\7", b"\7\0", b"\7\xff", b"\xff" * 30000, b"\0" * 32769):
        client = m.attach()
        client.send(packet)
        client.close()
    m.client.send(b"\0go\n")
    assert m.wait()["exit_code"] == 7


@both
def test_killed_first_client_ends_the_input(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("cat; exit 7"), stdin=True, attach=True, linger=linger)
    m.client.send(b"\0abc")
    m.client.close()
    assert m.wait()["exit_code"] == 7
    assert m.logged() == b"abc"


@both
def test_detached_first_client_leaves_the_input_open(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("read a; read b; echo $a$b"), stdin=True, attach=True, linger=linger)
    m.client.send(b"\0a\n")
    m.client.send(b'\5{"stdin": false}')
    m.client.close()
    time.sleep(0.3)
    other = m.attach(stdin=True)
    other.send(b"\0b\n")
    assert receive(other)[0][1] == b"ab\n"
    m.wait()


@both
def test_stuck_input_blocks_nothing(tmp_path: Path, linger: float) -> None:
    """A container that reads nothing: output flows, other clients are served, signals arrive."""
    m = Monitored(str(tmp_path), sh("echo ready; sleep 30"), stdin=True, attach=True, linger=linger)
    read_until(m.client, b"ready")
    m.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            m.client.send(b"\0" + bytes(30000))
    m.client.setblocking(True)
    other = m.attach()
    other.send(b"\7\x0f")  # SIGTERM
    assert receive(other)[1] == {"exit_code": 143, "oom_killed": False, "error": ""}
    m.wait()


@both
def test_terminal(tmp_path: Path, linger: float) -> None:
    script = "trap 'stty size' WINCH; stty size; echo ready; while :; do if read line; then echo got:$line; fi; done"
    m = Monitored(str(tmp_path), sh(script), terminal=True, stdin=True, attach=True, linger=linger)
    read_until(m.client, b"ready")
    resize(m.client, 40, 132)
    m.client.send(b"\0hello\n")
    assert b"40 132" in read_until(m.client, b"got:hello")
    m.client.send(b"\0\x03")  # typed ctrl-c: SIGINT through the line discipline
    _, info = receive(m.client)
    assert info and info["exit_code"] == 130
    m.wait()


@both
def test_terminal_end_of_file(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("cat; exit 4"), terminal=True, stdin=True, attach=True, linger=linger)
    m.client.send(b"\0abc\n")
    read_until(m.client, b"abc\r\nabc\r\n")
    m.client.send(b"\0")
    assert receive(m.client)[1]["exit_code"] == 4  # type: ignore[index]
    m.wait()


@both
def test_terminal_closed_for_a_moment(tmp_path: Path, linger: float) -> None:
    """Init systems close and reopen their console."""
    script = (
        "exec 3<&0; name=$(tty); exec </dev/null >/dev/null 2>&1 3<&-; sleep 0.5; exec >$name; echo again; sleep 0.2"
    )
    m = Monitored(str(tmp_path), sh(script), terminal=True, attach=True, linger=linger)
    assert receive(m.client)[0][1] == b"again\r\n"
    assert m.wait()["exit_code"] == 0


@both
def test_output_complete_at_exit(tmp_path: Path, linger: float) -> None:
    for terminal in (False, True):
        m = Monitored(
            str(tmp_path / str(terminal)), sh("seq 1 9000; exit 1"), terminal=terminal, attach=True, linger=linger
        )
        end = b"\r\n" if terminal else b"\n"
        assert receive(m.client)[0][1] == b"".join(b"%d" % n + end for n in range(1, 9001))
        m.wait()


@both
def test_grandchild_keeps_the_pipe(tmp_path: Path, linger: float) -> None:
    """With a shared pid namespace a process outlives init and goes on writing: it ends with the container."""
    m = Monitored(
        str(tmp_path), sh("yes & echo $! >&2; sleep 0.1; exit 6"), log={"driver": "none"}, attach=True, linger=linger
    )
    streams, info = receive(m.client)
    assert info and info["exit_code"] == 6
    m.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(streams[2]), 0)


@both
def test_waiters_are_told_at_once(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("sleep 30"), linger=linger)
    waiters = [m.attach(output=False) for _ in range(20)]
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(m.init, signal.SIGKILL)
    for waiter in waiters:
        assert receive(waiter)[1]["exit_code"] == 137  # type: ignore[index]
    assert time.monotonic() - began < 2
    m.wait()


@both
def test_free_when_told(tmp_path: Path, linger: float) -> None:
    """With the exit packet the lock is free, the run directory gone, the record written."""
    m = Monitored(str(tmp_path), sh("sleep 0.1"), attach=True, linger=linger)
    lock = os.open(f"{m.run}/lock", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    while (packet := m.client.recv(1 << 17)) and packet[0] != 4:
        pass
    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not os.path.exists(m.run)
    m.wait()


@both
def test_sigterm_stops_the_container(tmp_path: Path, linger: float) -> None:
    m = Monitored(
        str(tmp_path), sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"), attach=True, linger=linger
    )
    read_until(m.client, b"ready")
    os.kill(m.pid, signal.SIGHUP)
    os.kill(m.pid, signal.SIGTERM)
    assert m.wait()["exit_code"] == 9


@both
def test_sigterm_then_kill(tmp_path: Path, linger: float) -> None:
    m = Monitored(
        str(tmp_path),
        sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"),
        attach=True,
        linger=linger,
        stop_timeout=0.3,
    )
    read_until(m.client, b"ready")
    os.kill(m.pid, signal.SIGTERM)
    assert m.wait()["exit_code"] == 137


@both
def test_remove(tmp_path: Path, linger: float) -> None:
    volume, name, cidfile = tmp_path / "volume", tmp_path / "name", tmp_path / "cid"
    (volume / "_data").mkdir(parents=True)
    taken = tmp_path / "taken"  # by another container meanwhile
    taken.symlink_to("../containers/another")
    cidfile.write_text("x")
    m = Monitored(
        str(tmp_path),
        sh("sleep 0.1"),
        attach=True,
        linger=linger,
        remove=True,
        delete=[str(volume), str(name), str(taken), str(cidfile)],
    )
    name.symlink_to(f"../containers/{m.id}")
    deep = m.data + "/upper"
    os.makedirs(deep + "/a/b/c")
    Path(deep, "a", "file").write_text("x")
    os.symlink("/etc", deep + "/a/etc")
    os.mkdir(deep + "/locked", 0)
    receive(m.client)
    assert not os.path.exists(m.data)
    assert m.wait() == {}
    assert not volume.exists() and not name.is_symlink() and not cidfile.exists() and taken.is_symlink()
    assert os.listdir(m.trash) == [] and os.path.exists("/etc/passwd")


@both
def test_helpers_end(tmp_path: Path, linger: float) -> None:
    helper = os.fork()
    if not helper:
        os.execvp("sleep", ["sleep", "60"])
    m = Monitored(str(tmp_path), sh("exit 0"), helpers=[helper], linger=linger)
    assert os.waitpid(helper, 0)[1] == signal.SIGKILL
    m.wait(30)


@both
def test_killed_monitor(tmp_path: Path, linger: float) -> None:
    """The container dies with it and the lock is free."""
    m = Monitored(str(tmp_path), sh("echo ready; sleep 60"), attach=True, linger=linger)
    read_until(m.client, b"ready")
    if linger < 1:
        eventually(lambda: b"rl-monitor" in Path(f"/proc/{m.pid}/cmdline").read_bytes())
    os.kill(m.pid, signal.SIGKILL)
    os.waitpid(m.pid, 0)
    assert m.client.recv(100) == b""
    eventually(lambda: not _runs(m.init))


def _runs(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


@both
def test_many_clients_come_and_go(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), sh("while :; do echo tick; sleep 0.01; done"), linger=linger)
    for n in range(60):
        sock = m.attach()
        if n % 3 == 0:
            read_until(sock, b"tick")
        if n % 3 == 1:
            sock.send(b"\5not json")
            sock.send(b"\x63unknown")
        sock.close()
    survivor = m.attach()
    read_until(survivor, b"tick")
    assert len(os.listdir(f"/proc/{m.pid}/fd")) < 20
    os.kill(m.init, signal.SIGTERM)
    assert receive(survivor)[1]["exit_code"] == 143  # type: ignore[index]
    m.wait()


def test_becomes_lean(tmp_path: Path) -> None:
    """Output, a client and the order of things survive the exec."""
    m = Monitored(
        str(tmp_path), sh("for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.05; done"), attach=True, linger=0.2
    )
    streams, info = receive(m.client)
    assert streams[1] == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n" and info
    m.wait()
    assert m.logged() == streams[1]


def test_keeps_only_its_descriptors(tmp_path: Path) -> None:
    kept = os.open("/etc/hostname", os.O_RDONLY)
    stray = os.open("/etc/hosts", os.O_RDONLY)
    os.set_inheritable(stray, True)
    m = Monitored(str(tmp_path), sh("sleep 60"), linger=0.001, keep_fds=[kept])
    eventually(lambda: Path(f"/proc/{m.pid}/comm").read_text() == "rl-monitor\n" and len(_files(m.pid)) > 5)
    eventually(lambda: b"rl-monitor" in Path(f"/proc/{m.pid}/cmdline").read_bytes())
    time.sleep(0.2)
    files = _files(m.pid)
    assert "/etc/hostname" in files and "/etc/hosts" not in files
    assert files.count("/dev/null") == 3
    os.kill(m.pid, signal.SIGTERM)
    assert m.wait()["exit_code"] == 143
    os.close(kept)
    os.close(stray)


def _files(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue
    return found


def test_small(tmp_path: Path) -> None:
    """20 monitors at once: proportional memory of one, kB. Budget 3500; some room for other builds of Python."""
    monitors = [Monitored(str(tmp_path), ["sleep", "60"], container_id=f"{n:064x}", linger=0.001) for n in range(20)]
    try:
        for m in monitors:
            eventually(
                lambda m=m: (
                    os.path.exists(f"/proc/{m.pid}") and b"rl-monitor" in Path(f"/proc/{m.pid}/cmdline").read_bytes()
                )
            )
        time.sleep(0.5)
        sizes = []
        for m in monitors:
            text = Path(f"/proc/{m.pid}/smaps_rollup").read_text()
            sizes.append(next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")))
    finally:
        for m in monitors:
            os.kill(m.pid, signal.SIGTERM)
        for m in monitors:
            m.wait()
    print("PSS kB", sorted(sizes))
    assert sorted(sizes)[10] < 4500


def test_attach_socket_has_long_path(tmp_path: Path) -> None:
    base = tmp_path / ("x" * 100) / ("y" * 100)
    m = Monitored(str(base), sh("sleep 0.2"), linger=30)
    assert receive(m.attach())[1]["exit_code"] == 0  # type: ignore[index]
    m.wait()


def test_first_client_gone_from_the_start(tmp_path: Path) -> None:
    m = Monitored(str(tmp_path), sh("seq 1 100000; exit 2"), attach=True)
    m.client.shutdown(socket.SHUT_RDWR)
    m.client.close()
    assert m.wait()["exit_code"] == 2
