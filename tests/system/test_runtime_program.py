"""`rl-runtime`, the OCI runtime as a program: its commands, formats, exit codes and refusals, as root and as a user.

Source: opencontainers/runtime-tools docs/command-line-interface.md; runc(8).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import users
from support.bundles import PROGRAM, Lab
from support.cgroup_lane import CgroupLane
from system.conftest import eventually


@pytest.fixture(scope="module", params=["user", "root"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """One bundle as an ordinary user without privileges, and one as root, on a host with cgroup v2."""
    base = Path(tempfile.mkdtemp(prefix="rl-test-oci-", dir="/var/tmp"))
    base.chmod(0o755)
    user = users.ensure("rltest-oci") if request.param == "user" else users.root(base / "home")
    with CgroupLane(user) as lane:
        yield Lab(user, base, lane)
    shutil.rmtree(base)


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """No test leaves a container, a process or a cgroup."""
    yield
    left, groups = lab.left(), lab.lane.groups() if lab.lane else []
    for name in left:
        lab("delete", "--force", name)
    assert (left, groups) == ([], [])


def test_run_gives_output_and_exit_code(lab: Lab) -> None:
    done = lab.run("echo out; echo err >&2; id -u; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n0\n", "err\n")
    assert lab.run("kill -9 $$; exit 3").returncode == 3  # the kernel lets no init kill itself


def test_life_of_a_container(lab: Lab) -> None:
    """create → created; start → running; kill → stopped; delete → gone."""
    pid_file = lab.base / "bundle/pid"
    lab.write("sleep 1000")
    lab.ok("create", "--pid-file", pid_file, "one")
    try:
        state = lab.state("one")
        assert state == {
            "ociVersion": lab.template["ociVersion"], "id": "one", "pid": int(pid_file.read_text()), "status": "created",
            "bundle": str(lab.bundle), "rootfs": str(lab.bundle / "rootfs"), "created": state["created"],
            "owner": lab.user.name,
        }  # fmt: skip
        assert command_line(state["pid"]) != "sleep 1000"
        lab.ok("start", "one")
        assert lab.state("one")["status"] == "running" and "sleep" in command_line(state["pid"])
        assert "only a created one can be started" in refused(lab, "start", "one")
        assert "only a stopped one can be deleted" in refused(lab, "delete", "one")
        lab.ok("kill", "one", "KILL")
        eventually(lambda: lab.state("one")["status"] == "stopped", every=0.02)
        assert lab.state("one")["pid"] == 0
        assert "container not running" in refused(lab, "kill", "one")
        assert "is stopped" in refused(lab, "start", "one")
        assert "stopped container" in refused(lab, "exec", "one", "true", code=255)
        lab.ok("delete", "one")
    finally:
        lab("delete", "--force", "one")
    assert "does not exist" in refused(lab, "state", "one")
    assert "does not exist" in refused(lab, "delete", "one")
    lab.ok("delete", "--force", "one")  # not there is good enough

def test_errors_of_the_command_come_from_create_or_start(lab: Lab) -> None:
    lab.write(["/nowhere"])
    assert "no such file or directory" in refused(lab, "create", "one")
    lab.write(["/etc/passwd"])
    lab.ok("create", "one")
    assert "Permission denied" in refused(lab, "start", "one")
    eventually(lambda: lab.state("one")["status"] == "stopped", every=0.02)
    lab.ok("delete", "one")
    assert "executable file not found in $PATH" in lab.run(["nothing"]).stderr


def test_stop_by_signal_and_foreground_run(lab: Lab) -> None:
    """`run` in the foreground passes signals on; the exit code tells the signal."""
    lab.write("trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done")
    assert lab.lane
    words = [str(PROGRAM), "--root", str(lab.root), "run", "one"]
    process = subprocess.Popen(
        lab.lane.argv(["env", "-C", str(lab.bundle), *words]), stdout=subprocess.PIPE, env=lab.user.env()
    )
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.stdout.close()
    assert lab.left() == []


def test_exec(lab: Lab) -> None:
    with lab.running():
        done = lab("exec", "--env", "A=b c", "--cwd", "/srv", "c1", "sh", "-c", "echo $A; pwd; cat; exit 5", input="typed")
        assert (done.returncode, done.stdout) == (5, "b c\n/srv\ntyped"), done.stderr
        assert lab("exec", "c1", "sh", "-c", "kill -9 $$").returncode == 137
        assert "not found in $PATH" in refused(lab, "exec", "c1", "nothing", code=255)
        assert "no command" in refused(lab, "exec", "c1", code=255)
        assert "does not exist" in refused(lab, "exec", "c2", "true", code=255)
        document = {**lab.template["process"], "args": ["sh", "-c", "echo $MARK"], "env": ["PATH=/bin", "MARK=from file"]}
        file = lab.base / "bundle/process.json"
        file.write_text(json.dumps(document))
        assert lab.ok("exec", "--process", file, "c1") == "from file\n"
        file.write_text(json.dumps({**document, "cwd": 7}))
        assert "process.cwd" in refused(lab, "exec", "--process", str(file), "c1", code=255)
        pid_file = lab.base / "bundle/pid"
        lab.ok("exec", "--detach", "--pid-file", pid_file, "c1", "sleep", "1000")
        pid = int(pid_file.read_text())
        eventually(lambda: command_line(pid) == "sleep 1000", every=0.02)
        assert f" {pid} " in lab.ok("ps", "c1")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), every=0.02)  # it ended with its container


def test_exec_as_another_user_with_other_rights(lab: Lab) -> None:
    with lab.running():
        status = "grep -E '^(Uid|NoNewPrivs|CapEff):' /proc/self/status"
        assert "CapEff:\t0000000020000420" in lab.ok("exec", "c1", "sh", "-c", status)
        assert "CapEff:\t0000000020000421" in lab.ok("exec", "--cap", "CAP_CHOWN", "c1", "sh", "-c", status)
        assert "NoNewPrivs:\t0" in lab.ok("exec", "--no-new-privs=false", "c1", "sh", "-c", status)
        if lab.user.uid == 0:
            done = lab("exec", "--user", "33:44", "--additional-gids", "7", "c1", "id", "-G")
            assert done.stdout.split() == ["44", "7"], done.stderr
            assert lab.ok("exec", "--user", "33:44", "c1", "id", "-u") == "33\n"
        else:
            assert "the id is not mapped" in refused(lab, "exec", "--user", "33", "c1", "id", code=255)
        assert "in numbers" in refused(lab, "exec", "--user", "web", "c1", "id", code=255)


def test_pause_resume(lab: Lab) -> None:
    with lab.running(command="while true; do date > /tmp/now; sleep 0.01; done"):
        path = lab.bundle / "rootfs/tmp/now"
        eventually(path.exists, every=0.02)
        lab.ok("pause", "c1")
        assert lab.state("c1")["status"] == "paused"
        before = path.stat().st_mtime_ns
        time.sleep(0.1)
        assert path.stat().st_mtime_ns == before
        assert "is paused" in refused(lab, "exec", "c1", "true", code=255)
        assert "cannot pause" in refused(lab, "pause", "c1")
        assert "only a stopped one" in refused(lab, "delete", "c1")
        lab.ok("resume", "c1")
        eventually(lambda: path.stat().st_mtime_ns != before, every=0.02)
        assert "cannot resume" in refused(lab, "resume", "c1")
        lab.ok("pause", "c1")  # delete --force must end a frozen one too


def test_list_and_ps(lab: Lab) -> None:
    assert lab.ok("list").split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert json.loads(lab.ok("list", "--format", "json")) == []
    with lab.running("b2"), lab.running("a1"):
        lines = lab.ok("list").splitlines()
        assert [line.split()[:1] + line.split()[2:4] for line in lines[1:]] == [
            ["a1", "running", str(lab.bundle)], ["b2", "running", str(lab.bundle)],
        ]  # fmt: skip
        assert lab.ok("list", "-q") == "a1\nb2\n"
        assert {row["id"] for row in json.loads(lab.ok("list", "-f", "json"))} == {"a1", "b2"}
        pid = lab.state("a1")["pid"]
        assert json.loads(lab.ok("ps", "--format", "json", "a1")) == [pid]
        assert lab.ok("ps", "a1", "-o", "pid,args").splitlines()[1].split() == [str(pid), "sleep", "1000"]
        assert "is not known" in refused(lab, "list", "--format", "yaml")
    assert "does not exist" in refused(lab, "ps", "a1")


def test_two_creates_of_one_id_at_once(lab: Lab) -> None:
    lab.write("sleep 1000")
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(lab("create", "twin"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert sorted(done.returncode for done in results) == [0, 1, 1, 1, 1, 1]
        assert all("exists already" in done.stderr for done in results if done.returncode)
        assert lab.state("twin")["status"] == "created"
    finally:
        lab("delete", "--force", "twin")


def test_a_killed_create_leaves_the_id_free(lab: Lab) -> None:
    """SIGKILL at any moment of create: the next create of that id works."""
    lab.write("sleep 1000")
    assert lab.lane
    words = lab.lane.argv(["env", "-C", str(lab.bundle), str(PROGRAM), "--root", str(lab.root), "create", "cut"])
    for number in range(12):
        null = subprocess.DEVNULL
        process = subprocess.Popen(words, stdin=null, stdout=null, stderr=null, env=lab.user.env(), start_new_session=True)
        time.sleep(0.01 * number)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lab.ok("delete", "--force", "cut")
    lab.ok("create", "cut")
    lab.ok("delete", "cut")


def test_terminal_over_the_console_socket(lab: Lab) -> None:
    """The master arrives as a descriptor; it is the container's controlling terminal."""

    def terminal(spec: dict[str, Any]) -> None:
        spec["process"].update(terminal=True, consoleSize={"height": 33, "width": 99})

    lab.write("stty size; tty; read line; echo got $line", terminal)
    path = f"{lab.base}/bundle/console"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen(1)
        listener.settimeout(20)
        lab.ok("create", "--console-socket", path, "one")
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    os.unlink(path)
    master = fds[0]
    lab.ok("start", "one")
    said = b""
    os.write(master, b"hello\n")
    try:
        while chunk := os.read(master, 4096):
            said += chunk
    except OSError:
        pass  # EIO: the end
    os.close(master)
    assert b"33 99" in said and b"/dev/pts/0" in said and b"got hello" in said, said
    lab.ok("delete", "--force", "one")
    assert "give --console-socket" in refused(lab, "create", "two")
    lab.write("true")
    assert "has no terminal" in refused(lab, "create", "--console-socket", path, "two")


def test_preserved_descriptors(lab: Lab) -> None:
    lab.write("cat <&3; ls /proc/self/fd | wc -l")
    script = f'exec 3</etc/hostname 4</etc/passwd; exec {PROGRAM} --root {lab.root} run --preserve-fds "$0" one'
    assert lab.lane
    done = lab.lane.run("sh", "-c", script, "1", cwd=lab.bundle)
    assert done.stdout == Path("/etc/hostname").read_text() + "5\n", done.stderr  # 0 1 2 3, and ls's own
    done = lab.lane.run("sh", "-c", script, "9", cwd=lab.bundle)
    assert done.returncode == 1 and "descriptor 5 is not open" in done.stderr


def test_sockets_and_readiness_of_a_unit(lab: Lab) -> None:
    """LISTEN_FDS and NOTIFY_SOCKET, as systemd gives them to a service that is the runtime."""
    lab.write("cat <&3; echo $LISTEN_FDS $LISTEN_PID; ls $NOTIFY_SOCKET; cat <&4")
    path = f"{lab.bundle}/manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        os.chmod(path, 0o777)
        manager.settimeout(10)
        script = f'exec 3</etc/hostname 4</etc/shells; exec {PROGRAM} --root {lab.root} run --preserve-fds 1 one'
        assert lab.lane
        done = lab.lane.run("sh", "-c", script, cwd=lab.bundle, env={"LISTEN_FDS": "1", "NOTIFY_SOCKET": path})
        hostname, shells = Path("/etc/hostname").read_text(), Path("/etc/shells").read_text()
        assert done.stdout == f"{hostname}1 1\n/run/notify/notify.sock\n{shells}", done.stderr
        sender = lab.bundle / "rootfs/bin/ready"
        build_static(sender, READY)
        lab.write(["/bin/ready"])
        lab.ok("run", "one", env={"NOTIFY_SOCKET": path})
        message = manager.recv(4096).decode()
        assert "READY=1" in message.split("\n") and "STATUS=from inside" in message.split("\n")
        assert "MAINPID=7" not in message.splitlines() and "MAINPID=" in message
        # created and started by two programs: start returns when the container is ready
        lab.ok("create", "two", env={"NOTIFY_SOCKET": path})
        lab.ok("start", "two", env={"NOTIFY_SOCKET": path})
        assert "READY=1" in manager.recv(4096).decode()
        lab.ok("delete", "--force", "two")
    os.unlink(path)


READY = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *text = "READY=1\nSTATUS=from inside\nMAINPID=7\n";
    strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
    return sendto(socket(AF_UNIX, SOCK_DGRAM, 0), text, strlen(text), 0, (void *)&to, sizeof to) < 0;
}
"""


def build_static(target: Path, source: str) -> None:
    subprocess.run(["gcc", "-static", "-O1", "-x", "c", "-", "-o", str(target)], input=source, text=True, check=True)


def test_device_rules(lab: Lab) -> None:
    """Root: a device that the rules do not allow cannot be opened, though its node can be made."""
    if lab.user.uid:  # a device filter takes real root, and so does making nodes
        assert "Operation not permitted" in lab.run("mknod /kmsg c 1 11").stderr
        return

    def with_mknod(spec: dict[str, Any]) -> None:
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_MKNOD")

    script = "mknod /kmsg c 1 11 && head -c 1 /kmsg; head -c 1 /dev/zero | wc -c"
    done = lab.run(script, with_mknod)
    assert "Operation not permitted" in done.stderr and done.stdout == "1\n", (done.stdout, done.stderr)

    def allowed(spec: dict[str, Any]) -> None:
        with_mknod(spec)
        spec["linux"]["resources"]["devices"].append(
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
        )

    assert "Operation not permitted" not in lab.run(script, allowed).stderr


def test_hooks_run_in_order_and_poststop_goes_on(lab: Lab) -> None:
    trace = lab.base / "bundle/trace"
    trace.write_text("")
    trace.chmod(0o666)

    def hook(kind: str, code: int = 0) -> dict[str, Any]:
        script = f"read -r line; echo {kind} $(echo $line | grep -o '\"status\": \"[a-z]*') >> {trace}; exit {code}"
        return {"path": "/bin/sh", "args": ["sh", "-c", script]}

    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = {kind: [hook(kind)] for kind in ("prestart", "createRuntime", "createContainer", "poststart")}
        spec["hooks"]["poststop"] = [hook("poststop", 1), hook("poststop again")]

    lab.write("true", change)
    lab.ok("create", "one")
    lab.ok("start", "one")
    eventually(lambda: lab.state("one")["status"] == "stopped", every=0.02)
    done = lab("delete", "one")
    assert done.returncode == 0 and "exit status 1" in done.stderr  # a warning: it carries on
    found = [line.replace('"status": "', "") for line in trace.read_text().splitlines()]
    assert found == [
        "prestart creating", "createRuntime creating", "createContainer creating", "poststart running",
        "poststop stopped", "poststop again stopped",
    ]  # fmt: skip

    def failing(spec: dict[str, Any]) -> None:
        spec["hooks"] = {"createRuntime": [hook("createRuntime", 3)]}

    assert "createRuntime hook /bin/sh: exit status 3" in lab.run("true", failing).stderr


def test_subordinate_ids(lab: Lab) -> None:
    """A user's map of more than its own id goes through newuidmap; one of ids that are not its is refused."""
    if lab.user.uid == 0:
        first, count = 700_000, 1000  # root maps whatever it likes
    else:
        first, count = lab.user.subids()[0]

    def mapped(spec: dict[str, Any], start: int = first) -> None:
        namespaces = spec["linux"]["namespaces"]
        if {"type": "user"} not in namespaces:
            namespaces.append({"type": "user"})
        for kind, own in (("uid", lab.user.uid), ("gid", lab.user.gid)):
            spec["linux"][f"{kind}Mappings"] = [
                {"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": start, "size": count},
            ]  # fmt: skip
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_CHOWN")

    done = lab.run("cat /proc/self/uid_map; touch /tmp/x; chown 5:6 /tmp/x; stat -c %u:%g /tmp/x; rm /tmp/x", mapped)
    assert done.stdout.split() == ["0", str(lab.user.uid), "1", "1", str(first), str(count), "5:6"], done.stderr
    if lab.user.uid:
        error = lab.run("true", lambda spec: mapped(spec, 3_000_000_000)).stderr
        assert "not allowed" in error and "/etc/subgid" in error


def test_a_limit_that_cannot_be_set(lab: Lab) -> None:
    """An error; a warning with --rootless=true. (No memory controller is delegated in this lane.)"""
    lab.write("echo ran", lambda spec: spec["linux"].setdefault("resources", {}).update(memory={"limit": 100_000_000}))
    error = refused(lab, "run", "one")
    assert "linux.resources: memory limit 100000000 bytes" in error and "controller memory is not available" in error
    done = lab("--rootless=true", "run", "one")
    assert (done.returncode, done.stdout) == (0, "ran\n") and "limit not enforced: memory limit" in done.stderr


def test_kill_all_and_keep(lab: Lab) -> None:
    with lab.running(command="sleep 999 & exec sleep 1000"):
        eventually(lambda: len(json.loads(lab.ok("ps", "--format", "json", "c1"))) == 2, every=0.02)
        lab.ok("kill", "--all", "c1", "SIGKILL")
        eventually(lambda: lab.state("c1")["status"] == "stopped", every=0.02)
        assert lab.lane and "rl-c1" in lab.lane.groups()
        assert "invalid signal" in refused(lab, "kill", "c1", "FROB")
    lab.write("exit 4")
    assert lab("run", "--keep", "one").returncode == 4
    assert lab.state("one")["status"] == "stopped"
    assert "exists already" in refused(lab, "create", "one")
    lab.ok("delete", "one")


def test_no_pivot(lab: Lab) -> None:
    lab.write("ls /; cat /proc/self/mountinfo | wc -l")
    done = lab("run", "--no-pivot", "one")
    if lab.user.uid == 0:
        assert done.returncode == 0 and "srv" in done.stdout.split() and "home" not in done.stdout.split(), done.stderr


def test_events_and_update(lab: Lab) -> None:
    with lab.running():
        document = json.loads(lab.ok("events", "--stats", "c1"))
        assert document["type"] == "stats" and document["data"]["cpu"]["usage"]["total"] > 0
        assert "no limit given" in refused(lab, "update", "c1")
        assert "memory limit" in refused(lab, "update", "--memory", "100000000", "c1")  # no controller here
        assert "not a whole number" in refused(lab, "update", "--memory", "much", "c1")
        assert "resources.memory.limit" in refused_input(lab, '{"memory": {"limit": "x"}}')
        assert "--resources -" in refused_input(lab, "{")
        assert "not a time" in refused(lab, "events", "--interval", "soon", "c1")
    assert "does not exist" in refused(lab, "events", "c1")


def refused_input(lab: Lab, text: str) -> str:
    done = lab("update", "--resources", "-", "c1", input=text)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr


def test_log_file(lab: Lab) -> None:
    log = lab.base / "bundle/log"
    lab("--log", log, "--log-format", "json", "start", "none")
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and "does not exist" in entry["msg"] and entry["time"].endswith("Z")
    log.unlink()
    lab("--log", log, "start", "none")
    assert log.read_text().startswith('time="') and 'level=error msg="start failed: container none' in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 1, "no such command"),
        (["--frob", "list"], 1, "unknown option --frob"),
        (["create"], 1, "wrong number of arguments"),
        (["create", "--bundle"], 1, "needs a value"),
        (["create", "--preserve-fds", "many", "x"], 1, "not a whole number"),
        (["create", "--bundle", "/nowhere", "x"], 1, "/nowhere/config.json: no such file"),
        (["create", "a/b"], 1, "container id"),
        (["create", ".."], 1, "container id"),
        (["create", ""], 1, "container id"),
        (["create", "x" * 10_000], 1, "container id"),
        (["state", "../../etc"], 1, "container id"),
        (["kill", "nobody"], 1, "does not exist"),
        (["--log-format", "xml", "list"], 1, "--log-format"),
        (["--cgroup-manager", "magic", "create", "x"], 1, "--cgroup-manager"),
        (["--systemd-cgroup", "create", "x"], 1, "systemd"),
        (["--root", "/proc/none", "create", "x"], 1, "choose a directory of yours"),
        (["exec", "--bad", "x"], 1, "unknown option"),
    ],
)
def test_wrong_command_lines(lab: Lab, arguments: list[str], code: int, message: str) -> None:
    lab.write("true")
    assert message in refused(lab, *arguments, code=code)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "[" * 100_000, '{"ociVersion": "1.0.0"}', "\x00"])
def test_wrong_documents(lab: Lab, text: str) -> None:
    lab.write_text(text)
    refused(lab, "run", "one")


def test_bundle_without_root_file_system(lab: Lab) -> None:
    lab.write("true", lambda spec: spec["root"].update(path="nothing"))
    assert "root.path" in refused(lab, "create", "one")


def test_help_and_version(lab: Lab) -> None:
    assert lab.ok("--version").startswith("rl-runtime version ") and "\nspec: 1.2.0\n" in lab.ok("--version")
    for command in ("create start run state kill delete exec list ps pause resume update events features spec").split():
        assert f"rl-runtime {command}" in lab.ok(command, "--help") and f"  {command}" in lab.ok("--help")


def refused(lab: Lab, *arguments: str, code: int = 1) -> str:
    """The one line of error of a command that must fail with *code*."""
    done = lab(*arguments)
    assert done.returncode == code and "Traceback" not in done.stderr, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("rl-runtime: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
