"""Create and start: real containers in real namespaces."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from rl.errors import CommandNotExecutableError, CommandNotFoundError, RlError, UnsupportedError
from rl.kernel import clone as kclone
from rl.kernel import process as kp
from rl.kernel.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER, open_namespace, unshare
from rl.runtime import container, seccomp, userns
from rl.runtime.sync import Io
from unit.runtime.container_lab import CAPABILITIES, Lab, make_lab, read_until, specification


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def sh(script: str) -> dict[str, Any]:
    return specification(["sh", "-c", script])


def test_namespaces_and_names(lab: Lab) -> None:
    result = lab.run(
        "hostname; echo $$; ip -o addr show lo; for n in pid net ipc uts mnt user; do readlink /proc/self/ns/$n; done"
    )
    lines = result.output.splitlines()
    assert (result.code, lines[0], lines[1]) == (0, "box", "1"), result.output
    assert "127.0.0.1" in lines[2]
    ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "ipc", "uts", "mnt", "user")}
    assert len(lines[-6:]) == 6 and not ours & set(lines[-6:])
    assert result.extra["child"] is True


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$; sleep 1; exit 3", 3)])
def test_exit_code(lab: Lab, script: str, code: int) -> None:
    assert lab.run(script).code == code


def test_nothing_leaks(lab: Lab) -> None:
    spare = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(spare, True)
    try:
        result = lab.run("ls /proc/self/fd | tr '\\n' ' '")
    finally:
        os.close(spare)
    assert result.output.split() == ["0", "1", "2", "3"]  # 3 is ls looking
    assert result.extra["leaked"] == 0


def test_preserved_fds_keep_their_order(lab: Lab) -> None:
    pairs = [os.pipe() for _ in range(2)]
    for number, (_, writer) in enumerate(pairs):
        os.write(writer, f"pipe {number}\n".encode())
    result = lab.run("read a <&3; read b <&4; echo $a $b", preserve=[pairs[0][0], pairs[1][0]])
    assert result.output == "pipe 0 pipe 1\n"


def test_mounts_are_what_was_asked(lab: Lab) -> None:
    (lab.bundle / "data").mkdir()
    (lab.bundle / "data/file").write_text("host\n")
    spec = sh(
        "cat /new/dir/file; echo x > /new/dir/file; echo y > /dev/shm/y && cat /dev/shm/y; cat /proc/self/mountinfo"
    )
    options = ["rbind", "ro", "nosuid"]
    spec["mounts"].append({"destination": "/new/dir", "type": "bind", "source": "data", "options": options})
    result = lab.run(spec)
    assert "host\n" in result.output and "Read-only file system" in result.output and "\ny\n" in result.output
    found = {line.split()[4]: line.split()[5].split(",") for line in result.output.splitlines() if " - " in line}
    assert {"ro", "nosuid"} <= set(found["/new/dir"])
    assert {"nosuid", "noexec", "nodev"} <= set(found["/proc"])
    assert "ro" in found["/sys"] and "ro" in found["/proc/sys"] and "rw" in found["/"]
    assert (lab.bundle / "data/file").read_text() == "host\n"


def test_read_only_binds_are_read_only_below_too(lab: Lab) -> None:
    (lab.bundle / "data/sub").mkdir(parents=True)

    def mount_below(spec: dict[str, Any]) -> None:
        from rl.kernel import mount as m

        m.mount("tmpfs", str(lab.bundle / "data/sub"), "tmpfs")

    spec = sh("touch /data/sub/x")
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro"]})
    result = lab.run(spec, inside=mount_below)
    assert result.code == 1 and "Read-only" in result.output


def test_locked_flags_of_the_source_stay(lab: Lab) -> None:
    """In a user namespace nosuid and nodev of the host's mount cannot be taken away; that is no error."""
    spec = sh("grep ' /data ' /proc/self/mountinfo")
    spec["mounts"].append(
        {"destination": "/data", "type": "bind", "source": "/proc", "options": ["rbind", "suid", "exec", "dev", "rw"]}
    )
    result = lab.run(spec)
    assert result.code == 0, result.error and result.error.message


def test_masked_and_read_only_paths(lab: Lab) -> None:
    result = lab.run("wc -c < /proc/keys; ls -A /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/msgmax")
    lines = result.output.splitlines()
    assert lines[:2] == ["0", "0"] and "Read-only" in lines[-1]


def test_devices(lab: Lab) -> None:
    script = (
        "for d in null zero full random urandom tty; do [ -c /dev/$d ] && echo $d; done; head -c 3 /dev/zero | wc -c;"
        "echo a > /dev/full; readlink /dev/fd /dev/stdin; echo via > /dev/stdout; ls -l /dev/ptmx"
    )
    result = lab.run(script)
    assert result.output.split()[:7] == ["null", "zero", "full", "random", "urandom", "tty", "3"]
    assert "No space left" in result.output and "via\n" in result.output and "pts/ptmx" in result.output


def test_capabilities_bounding_and_no_new_privs(lab: Lab) -> None:
    spec = specification(["grep", "-E", "^(Cap|NoNewPrivs|SigIgn|SigBlk)", "/proc/self/status"])
    spec["process"]["noNewPrivileges"] = True
    spec["process"]["capabilities"] = {k: ["CAP_KILL"] for k in ("bounding", "effective", "permitted")}
    values = dict(line.split(":\t") for line in lab.run(spec).output.splitlines())
    kill = f"{1 << 5:016x}"
    assert (values["CapEff"], values["CapPrm"], values["CapBnd"]) == (kill, kill, kill)
    assert values["CapInh"] == values["CapAmb"] == values["SigIgn"] == values["SigBlk"] == "0" * 16
    assert values["NoNewPrivs"] == "1"


def single(result_mode: str) -> None:
    if result_mode == "single":
        pytest.skip("this user has no subordinate ids (/etc/subuid)")


def test_user_groups_umask_home_and_ambient(lab: Lab) -> None:
    single(lab.run("true").extra["mode"])
    spec = sh("id; umask; echo $HOME; cd /proc/self; grep CapAmb status; grep CapEff status; echo o > /dev/stdout")
    spec["process"]["user"] = {"uid": 33, "gid": 33, "additionalGids": [44], "umask": 0o027}
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    spec["process"]["capabilities"] = {kind: ["CAP_NET_BIND_SERVICE"] for kind in kinds}
    lines = lab.run(spec).output.splitlines()
    assert lines[0] == "uid=33(web) gid=33(web) groups=44(log)"
    assert lines[1:3] == ["0027", "/srv"]
    assert lines[3].split()[1] == lines[4].split()[1] == f"{1 << 10:016x}"
    assert lines[5] == "o", "the pipe belongs to the container's user"


def test_a_user_without_mapping_is_explained(lab: Lab) -> None:
    spec = sh("id")
    spec["process"]["user"] = {"uid": 4000000000, "gid": 0}
    result = lab.run(spec)
    if os.getuid() == 0 and result.error is None:
        pytest.skip("root maps every id")
    assert result.error is not None and "become user 4000000000" in result.error.message
    assert "/etc/subuid" in result.error.hint


def test_resource_limits(lab: Lab) -> None:
    spec = sh("ulimit -n; ulimit -c")
    spec["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert lab.run(spec).output.split() == ["64", "0"]
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 2**40, "hard": 2**40}]
    error = lab.run(spec).error
    assert error is not None and "RLIMIT_NOFILE" in error.message


@pytest.mark.parametrize(
    ("command", "kind", "text"),
    [
        (["nosuchprogram"], CommandNotFoundError, "not found in $PATH"),
        (["/no/such"], CommandNotFoundError, "no such file"),
        (["/etc"], CommandNotExecutableError, "directory"),
        (["/etc/passwd"], CommandNotExecutableError, "Permission denied"),
        (["/srv/broken"], CommandNotExecutableError, "exec format error"),
        (["/srv/script"], CommandNotFoundError, "interpreter"),
        (["/srv/evil"], CommandNotExecutableError, "refused"),
        (["/srv/evil2"], CommandNotExecutableError, "refused"),
        (["/proc/self/exe"], CommandNotExecutableError, "refused"),
        (["noexec"], CommandNotExecutableError, "Permission denied"),
        ([""], CommandNotFoundError, "no command"),
    ],
)
def test_commands_that_cannot_run(lab: Lab, command: list[str], kind: type[RlError], text: str) -> None:
    for name, content in (
        ("broken", "\x7fELX" + "x" * 60), ("script", "#!/no/interpreter\n"), ("evil", "#!/proc/self/exe\n"),
        ("evil2", "#!/srv/evil\n"),
    ):
        (lab.root / "srv" / name).write_text(content)
        (lab.root / "srv" / name).chmod(0o755)
    (lab.root / "bin/noexec").write_text("x")
    result = lab.run(command)
    assert type(result.error) is kind, result.error
    assert text in result.error.message


def test_a_later_path_entry_wins_over_a_forbidden_one(lab: Lab) -> None:
    (lab.root / "srv/hello").write_text("not executable")
    (lab.root / "tmp/hello").write_text("#!/bin/sh\necho hello\n")
    (lab.root / "tmp/hello").chmod(0o755)
    spec = specification(["hello"])
    spec["process"]["env"] = ["PATH=/nothing:/srv:/tmp:/bin"]
    assert lab.run(spec).output == "hello\n"


@pytest.mark.parametrize("link", ["/etc", "../../../../../../../../../../etc", "/proc/1/root/etc"])
def test_mount_targets_stay_in_the_root(lab: Lab, link: str, tmp_path: Path) -> None:
    """A link in the image leads a mount, and the making of its target, to the image's own /etc, never to the host's."""
    (lab.bundle / "file").write_text("bound\n")
    (lab.root / "link").symlink_to(link)
    name = f"rl-test-{os.getpid()}"
    spec = sh(f"cat /etc/{name}")
    spec["mounts"].insert(0, {"destination": f"/link/{name}", "type": "bind", "source": "file", "options": ["bind"]})
    result = lab.run(spec)
    assert not os.path.lexists(f"/etc/{name}")
    if link.startswith("/proc"):
        assert result.error is not None or result.code
    else:
        assert result.output == "bound\n", result.error and result.error.message


def test_dangling_links_are_made_inside(lab: Lab) -> None:
    (lab.bundle / "file").write_text("resolver\n")
    (lab.root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub.conf")
    spec = sh("cat /etc/resolv.conf")
    spec["mounts"].append({"destination": "/etc/resolv.conf", "type": "bind", "source": "file", "options": ["bind"]})
    assert lab.run(spec).output == "resolver\n"
    assert (lab.root / "run/systemd/resolve/stub.conf").exists()


def test_proc_is_not_mounted_through_a_link(lab: Lab) -> None:
    (lab.root / "proc").rmdir()
    (lab.root / "proc").symlink_to("tmp")
    error = lab.run("true").error
    assert error is not None and "mount proc on /proc" in error.message and "symbolic link" in error.hint


def test_working_directory(lab: Lab) -> None:
    spec = sh("pwd")
    spec["process"]["cwd"] = "/made/for/me"
    assert lab.run(spec).output == "/made/for/me\n"
    (lab.root / "a-file").write_text("")
    spec["process"]["cwd"] = "/a-file/below"
    error = lab.run(spec).error
    assert error is not None and "/a-file/below" in error.message


@pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/cwd", "/proc/self/root/proc/self/fd/5"])
def test_working_directory_never_leaves(lab: Lab, cwd: str) -> None:
    """CVE-2024-21626: a descriptor of the runtime that leads to the host."""
    leak = os.open("/etc", os.O_RDONLY)
    copies = [fcntl.fcntl(leak, fcntl.F_DUPFD, 3) for _ in range(6)]
    spec = sh("pwd; ls")
    spec["process"]["cwd"] = cwd
    try:
        result = lab.run(spec)
    finally:
        for fd in [leak, *copies]:
            os.close(fd)
    assert result.error is not None and "passwd" not in result.output


def test_read_only_root(lab: Lab) -> None:
    spec = sh("echo x > /file; echo x > /dev/shm/ok && cat /dev/shm/ok")
    spec["root"]["readonly"] = True
    result = lab.run(spec)
    assert "Read-only" in result.output and result.output.endswith("x\n")


def test_terminal(lab: Lab) -> None:
    def talk(master: int) -> bytes:
        said = read_until(master, b"ready")
        fcntl.ioctl(master, 0x5414, struct.pack("=HHHH", 33, 101, 0, 0))
        os.write(master, b"go\n")
        return said + read_until(master, b"END")

    spec = sh(
        "tty; stty size; [ -c /dev/console ] && echo console; echo ready; read x;"
        "stty size; ps -o pid,tty | grep ' 1 '; echo END"
    )
    spec["process"].update(terminal=True, consoleSize={"height": 24, "width": 80})
    result = lab.run(spec, talk=talk)
    text = result.output.replace("\r\n", "\n")
    assert "/dev/pts/0\n24 80\nconsole\nready\n" in text and "33 101\n" in text
    assert "136,0" in text or "pts" in text.split("33 101")[1]


def test_sysctl(lab: Lab) -> None:
    spec = sh("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start")
    spec["linux"]["sysctl"] = {"kernel.msgmax": "7777", "net.ipv4.ip_unprivileged_port_start": "0"}
    assert lab.run(spec).output.split() == ["7777", "0"]


@pytest.mark.parametrize(
    "key", ["kernel.ostype", "../../etc/passwd", "net/../kernel/ostype", "vm.nothing", "kernel", ""]
)
def test_a_sysctl_of_the_host_is_refused(lab: Lab, key: str) -> None:
    spec = sh("true")
    spec["linux"]["sysctl"] = {key: "1"}
    error = lab.run(spec).error
    assert error is not None and "namespace of the container's own" in error.message
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
    assert lab.run(spec).error is not None


def test_copy_up(lab: Lab) -> None:
    (lab.root / "var/lib").mkdir(parents=True)
    (lab.root / "var/lib/file").write_text("from the image")
    (lab.root / "var/lib/link").symlink_to("file")
    (lab.root / "var/lib/script").write_text("")
    (lab.root / "var/lib/script").chmod(0o4750)
    (lab.root / "var").chmod(0o711)
    spec = sh("cat /var/lib/link; stat -c %a /var /var/lib/script; echo new > /var/lib/file; cat /var/lib/file")
    spec["mounts"].append({"destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})
    assert lab.run(spec).output == "from the image711\n4750\nnew\n"
    assert (lab.root / "var/lib/file").read_text() == "from the image"


def test_nested_user_namespace(lab: Lab) -> None:
    """A user namespace of its own below the shared one, mapped by the parent."""
    single(lab.run("true").extra["mode"])
    spec = sh("cat /proc/self/uid_map; id -u; touch /dev/shm/x && stat -c %u /dev/shm/x; cat /data/file; hostname")
    spec["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": 1, "size": 1000}, {"containerID": 1000, "hostID": 0, "size": 1}]
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    (lab.bundle / "data").mkdir(mode=0o700)
    (lab.bundle / "data/file").write_text("reached\n")
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": "data", "options": ["bind"]})
    for path in (lab.bundle, lab.root):
        path.chmod(0o711 if path == lab.root else 0o700)

    def readable(spec: dict[str, Any]) -> None:
        os.chown(lab.bundle / "data", 1, 1)

    result = lab.run(spec, inside=readable)
    userns.call(str(lab.run_dir), shutil.rmtree, str(lab.bundle))  # some of it belongs to others now
    lines = result.output.splitlines()
    assert result.error is None, result.error
    assert lines[0].split() == ["0", "1", "1000"] and lines[2:] == ["0", "0", "reached", "box"]


def test_hooks_run_in_their_places(lab: Lab) -> None:
    log = lab.bundle / "log"
    log.touch()
    hook = lab.bundle / "hook"
    hook.write_text(f"#!/bin/sh\necho $1 $(hostname) $(cat | tr -d ' ' | grep -o 'status\":\"[a-z]*') >> {log}\n")
    hook.chmod(0o755)
    (lab.root / "bin/inner").write_text("#!/bin/sh\nread x; echo inner $x\n")
    (lab.root / "bin/inner").chmod(0o755)
    spec = sh("echo command")

    def entry(kind: str) -> list[dict[str, Any]]:
        return [{"path": str(hook), "args": ["hook", kind], "env": ["PATH=/usr/bin:/bin"], "timeout": 10}]

    spec["hooks"] = {kind: entry(kind) for kind in ("prestart", "createRuntime", "createContainer", "poststart")}
    spec["hooks"]["startContainer"] = [{"path": "/bin/inner", "env": ["PATH=/bin"]}]
    result = lab.run(spec)
    assert result.error is None, result.error
    assert result.output.startswith('inner {"ociVersion"') and result.output.endswith("command\n")
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == ["prestart", "createRuntime", "createContainer", "poststart"]
    assert lines[2][1] == "box" and lines[0][1] != "box"
    assert lines[3][2].endswith("running")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_fails_the_container(lab: Lab, kind: str) -> None:
    spec = sh("sleep 5")
    spec["hooks"] = {kind: [{"path": "/bin/false" if kind != "startContainer" else "/bin/busybox", "args": ["false"]}]}
    error = lab.run(spec).error
    assert error is not None and kind in error.message and "exit status 1" in error.message


def test_start_hooks_are_not_run_by_our_interpreter(lab: Lab) -> None:
    """CVE-2019-5736 by a startContainer hook, whose program is the container's."""
    (lab.root / "bin/inner").write_text("#!/proc/self/exe\n")
    (lab.root / "bin/inner").chmod(0o755)
    spec = sh("true")
    spec["hooks"] = {"startContainer": [{"path": "/bin/inner"}]}
    error = lab.run(spec).error
    assert error is not None and "refused" in error.message
    for content, text in (("#!/no/interpreter", "No such file"), ("\x7fELX", "format")):
        (lab.root / "bin/inner").write_text(content)
        error = lab.run(spec).error
        assert error is not None and text in error.message


def test_a_hook_gets_all_of_its_input_or_leaves_it(lab: Lab) -> None:
    """More than a pipe holds: read to the end, not read at all, and not read by one whose time is up."""
    spec = sh("true")
    spec["annotations"] = {"big": "x" * 300_000}
    log = lab.bundle / "log"
    script = f"cat | wc -c >> {log}"
    reads = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    spec["hooks"] = {"createRuntime": [reads, {**reads, "timeout": 20}, {"path": "/bin/true"}, {"path": "/bin/true", "timeout": 20}]}
    result = lab.run(spec)
    assert result.error is None, result.error
    first, second = map(int, log.read_text().split())
    assert first == second > 300_000
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    begin = time.monotonic()
    result = lab.run(spec)
    assert result.error is not None and "did not end within 1 s" in result.error.message
    assert time.monotonic() - begin < 10


def test_a_hook_that_hangs_is_ended(lab: Lab) -> None:
    spec = sh("true")
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    error = lab.run(spec, seconds=10).error
    assert error is not None and "within 1 s" in error.message


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda s: s["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}),
         RlError, "/no/such"),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "nofs", "source": "x"}), RlError, "nofs"),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "tmpfs", "options": ["size=banana"]}),
         RlError, "banana"),
        (lambda s: s["linux"].update(namespaces=[{"type": "pid"}]), UnsupportedError, "mount namespace"),
        (lambda s: s["linux"]["namespaces"].append({"type": "galaxy"}), UnsupportedError, "galaxy"),
        (lambda s: s["linux"]["namespaces"].append({"type": "time", "path": "/no/ns"}), RlError, "/no/ns"),
        (lambda s: s.update(hostname="x" * 65), RlError, "host name"),
        (lambda s: s["root"].update(path="nothing"), RlError, "root file system"),
        (lambda s: s["linux"].update(intelRdt={"closID": "x"}), UnsupportedError, "linux.intelRdt"),
        (lambda s: s["linux"].update(timeOffsets={"boottime": {"secs": 1}}), RlError, "linux.timeOffsets"),
    ],
)
def test_what_cannot_be_done_is_said(lab: Lab, change: Any, kind: type[RlError], text: str) -> None:
    spec = sh("true")
    change(spec)
    result = lab.run(spec)
    assert isinstance(result.error, kind) and text in result.error.message, (result.error, result.output)


def test_time_namespace_with_offset(lab: Lab) -> None:
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("this kernel has no time namespaces")
    spec = sh("cut -d. -f1 /proc/uptime")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000}}
    assert int(lab.run(spec).output) > 1000000


def test_the_container_ends_with_its_monitor(lab: Lab) -> None:
    read_end, write_end = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        os.close(read_end)
        userns.enter(str(lab.run_dir))
        created = container.create(str(lab.bundle), specification(["sleep", "60"]), Io(0, write_end, 2))
        container.start(created)
        os.write(write_end, b"x")
        os._exit(0)
    os.close(write_end)
    assert os.read(read_end, 1) == b"x"
    os.waitpid(monitor, 0)
    assert os.read(read_end, 1) == b""  # the container held the other end
    os.close(read_end)


def test_joining_a_pid_namespace(lab: Lab) -> None:
    """Two forks, and init is the monitor's child all the same."""

    def other(spec: dict[str, Any]) -> None:
        pid, _ = kclone.clone(CLONE_NEWPID | CLONE_NEWIPC)
        if pid == 0:
            kp.close_range(3)
            kp.prctl(kp.PR_SET_PDEATHSIG, 9)
            os.fork()  # something to see: two processes are there already
            time.sleep(20)
            os._exit(0)
        spec["linux"]["namespaces"] = [
            {**n, "path": f"/proc/{pid}/ns/{n['type']}"} if n["type"] in ("pid", "ipc") else n
            for n in spec["linux"]["namespaces"]
        ]

    result = lab.run("ls /proc | grep -c '^[0-9]'; [ $$ -gt 1 ] && echo not first; exit 6", inside=other)
    assert result.error is None, result.error
    assert result.code == 6 and result.extra["child"] is True
    assert int(result.output.split()[0]) >= 4 and "not first" in result.output


@pytest.mark.parametrize("locked", [False, True], ids=["before the capabilities go", "last, with no_new_privs"])
def test_seccomp_is_loaded(lab: Lab, locked: bool) -> None:
    spec = sh("grep ^Seccomp: /proc/self/status; mkdir /tmp/d; chmod 700 /tmp/d; echo $?; nosuch")
    spec["process"]["noNewPrivileges"] = locked
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    result = lab.run(spec)
    assert result.output.split()[:2] == ["Seccomp:", "2"], (result.error, result.output)
    assert "Operation not permitted" in result.output and "\n1\n" in result.output
    spec["process"]["args"] = ["nothing"]
    assert isinstance(lab.run(spec).error, CommandNotFoundError), "errors cross the filter"


def test_the_default_seccomp_profile_lets_a_container_start(lab: Lab) -> None:
    for locked in (False, True):
        spec = sh("grep ^Seccomp: /proc/self/status")
        spec["process"]["noNewPrivileges"] = locked
        spec["linux"]["seccomp"] = seccomp.default_profile(CAPABILITIES)
        assert lab.run(spec).output.split() == ["Seccomp:", "2"]


def test_a_killed_child_is_an_error_not_a_hang(lab: Lab) -> None:
    """The cgroup, the oom killer or a person may end it at any step."""
    spec = sh("true")
    spec["process"]["noNewPrivileges"] = True
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_KILL_PROCESS"}
    result = lab.run(spec, seconds=10)
    assert result.code == -31 or (result.error is not None and "seccomp" in result.error.message + result.error.hint)


def test_kernels_without_the_newer_calls(lab: Lab) -> None:
    """Linux 5.8 has neither mount_setattr(2) nor close_range(2) with all its flags: the older ways do the same."""
    missing = seccomp.program_for({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount_setattr", "close_range"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    })

    def older(spec: dict[str, Any]) -> None:
        kp.prctl(kp.PR_SET_NO_NEW_PRIVS, 1)
        assert missing is not None
        seccomp.install(missing)

    (lab.bundle / "data").mkdir()
    files = "/data/x /x /proc/sys/kernel/msgmax /dev/shm/x"
    spec = sh(f"for f in {files}; do touch $f 2>&1; done; ls /proc/self/fd | wc -l")
    spec["root"]["readonly"] = True
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro"]})
    (lab.root / "data").mkdir()
    result = lab.run(spec, inside=older)
    assert result.error is None, result.error
    assert result.output.count("Read-only file system") == 3 and result.output.endswith("\n4\n"), result.output


def test_joining_a_user_namespace_and_its_network(lab: Lab) -> None:
    """As the engine does for keep-id: both are made before the container and named by the monitor's descriptors."""
    single(lab.run("true").extra["mode"])

    def made_before(spec: dict[str, Any]) -> None:
        pid, _ = kclone.clone(CLONE_NEWUSER | CLONE_NEWNET)
        if pid == 0:
            time.sleep(20)
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text("0 1 1000\n1000 0 1\n")
        fds = {kind: open_namespace(pid, kind) for kind in ("user", "net")}
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        kinds = [n for n in spec["linux"]["namespaces"] if n["type"] not in ("network", "ipc")]
        outer = os.fork()  # an IPC namespace that belongs to the namespace around
        if outer == 0:
            kp.close_range(3)
            kp.prctl(kp.PR_SET_PDEATHSIG, 9)
            unshare(CLONE_NEWIPC)
            time.sleep(20)
        while os.readlink(f"/proc/{outer}/ns/ipc") == os.readlink("/proc/self/ns/ipc"):
            time.sleep(0.01)
        fds["ipc"] = open_namespace(outer, "ipc")
        paths = {kind: f"/proc/{os.getpid()}/fd/{fd}" for kind, fd in fds.items()}
        for kind, file in (("user", "user"), ("network", "net"), ("ipc", "ipc")):
            kinds.append({"type": kind, "path": paths[file]})
        spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] != "mqueue"]
        spec["linux"]["namespaces"] = kinds

    (lab.root / "srv").chmod(0o777)
    spec = sh("cat /proc/self/uid_map; id -u; touch /srv/mine; stat -c %u /srv/mine; ip -o link | wc -l")
    spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    result = lab.run(spec, inside=made_before)
    assert result.error is None, result.error
    lines = result.output.splitlines()
    assert lines[0].split() == ["0", "1", "1000"] and lines[2:4] == ["1000", "1000"] and lines[4] == "1"
    assert (lab.root / "srv/mine").stat().st_uid == os.getuid(), "uid 1000 inside is the caller outside"
