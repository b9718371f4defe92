"""Flags of `rl run` about process and identity: each does what podman-run(1) says, or is an error that says why not."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from system.conftest import Rl
from system.test_secrets import told

# (arguments of `rl run --rm`, lines of standard output)
GOOD = [
    ("--env-merge 'PATH=${PATH}:/opt' --env-merge 'X=${NO:-a}' --disable-content-trust busybox sh -c 'echo $PATH $X'",
     "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt a"),
    ("--chrootdirs /srv/root,/x --hostname box busybox sh -c 'cat /srv/root/etc/hostname; ls /x/etc'",
     "box\nhostname\nhosts\nresolv.conf"),
    ("--personality linux32 --no-hostname --hostname box busybox sh -c 'uname -m; ls /etc/hostname 2>/dev/null; hostname'", "i686\nbox"),
    ("--security-opt proc-opts=hidepid=2 --security-opt systempaths=unconfined busybox "
     "sh -c 'grep -c \" /proc/\" /proc/mounts; grep -c hidepid=invisible /proc/mounts'", "0\n1"),
    ("--systemd always --shm-size-systemd 1m busybox sh -c 'df -k /run /run/lock | grep -c 1024; "
     "for d in /run /run/lock /tmp /var/log/journal; do grep -c \"^tmpfs $d \" /proc/mounts; done; "
     "grep -c \"/sys/fs/cgroup cgroup2 rw\" /proc/mounts; echo ${#container_uuid}'", "2\n1\n1\n1\n1\n1\n32"),
    ("--uidmap 0:1:100 --uidmap 100:101:2000 --gidmap 0:1:3000 busybox cat /proc/self/uid_map /proc/self/gid_map",
     "0 1 100\n100 101 2000\n0 1 3000"),
    ("--uidmap +2000:@SUBID:1 busybox cat /proc/self/uid_map", "0 0 1\n2 2 1998\n2000 1 1\n2001 2001 63536"),
    ("--subuidname USER --subgidname USER busybox cat /proc/self/uid_map /proc/self/gid_map", "0 1 65536\n0 1 65536"),
    ("--userns auto:size=2000,uidmapping=1500:0:1 busybox cat /proc/self/uid_map", "0 1 1500\n1500 0 1\n1501 1502 499"),
    ("-u 77:88 -w /tmp --passwd-entry 'u$USERNAME:*:$UID:$GID:$NAME:$HOME:/x' --group-entry 'g$GROUPNAME:x:$GID:$USERLIST' busybox "
     "sh -c 'id -un; tail -qn1 /etc/passwd /etc/group; echo $HOME'", "u77\nu77:*:77:88:container user:/tmp:/x\ng88:x:88:u77\n/tmp"),
    ("-u 77:88 --passwd=false busybox sh -c 'tail -qn1 /etc/passwd /etc/group'", "app:x:1000:1000:app:/home/app:/bin/sh\nextra:x:2000:app"),
    ("--hostuser USER,nobody --user USER busybox sh -c 'id -un; grep -c ^nobody: /etc/passwd'", "USER\n1"),
    ("--group-add keep-groups busybox id -G", "0 65534"),
    ("--hosts-file none busybox grep -c . /etc/hosts", "3"),
    ("--hosts-file base busybox head -n1 /etc/hosts", "192.0.2.9\tfrom-file"),
    ("--hosts-file image busybox head -n1 /etc/hosts", "127.0.0.1\tlocalhost"),
    ("--seccomp-policy image busybox grep Seccomp: /proc/self/status", "Seccomp:\t2"),
    ("--retry 1 --retry-delay 1s --creds a:b --cert-dir / busybox true", ""),
    ("--rootfs root:O /busybox sh -c '/busybox touch /new; /busybox ls /new'", "/new"),
]


@pytest.fixture(scope="module")
def prepared(_user_rl: Rl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rl]:
    """With a hosts file, a root directory and an image that brings a seccomp profile: mkdir(2) is refused."""
    rl = _user_rl
    home = rl.user.home
    (home / "base").write_text("192.0.2.9 from-file\n")
    (home / "root").mkdir(exist_ok=True)
    (home / "root/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (home / "root/busybox").chmod(0o755)
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    directory = tmp_path_factory.mktemp("profiled")
    archive = images.busybox(directory, {"Cmd": ["sh"], "Labels": {"io.containers.seccomp.profile": profile}}, "profiled:latest")
    (home / "profiled.tar").write_bytes(archive.read_bytes())
    rl.ok("load", "-q", "-i", home / "profiled.tar")
    subprocess.run(["usermod", "-aG", "mail", rl.user.name], check=True)
    yield rl
    rl("rmi", "profiled")
    subprocess.run(["gpasswd", "-d", rl.user.name, "mail"], check=True, capture_output=True)


@pytest.mark.parametrize(("words", "expected"), GOOD)
def test_run(prepared: Rl, words: str, expected: str) -> None:
    rl = prepared
    for name, value in (("SUBID", str(rl.user.subids()[0][0])), ("USER", rl.user.name)):
        words, expected = words.replace(name, value), expected.replace(name, value)
    words = words.replace("$" + rl.user.name, "$USER")
    done = rl("run", "--rm", "--network=none", *shlex.split(words))
    lines = [" ".join(line.split()) if "_map" in words else line for line in done.stdout.splitlines()]
    assert (done.returncode, "\n".join(lines)) == (0, expected), done.stderr
    assert not (rl.user.home / "root/new").exists()


def test_seccomp_policy(prepared: Rl) -> None:
    """The control: without the policy, the image's profile is not used."""
    assert prepared("run", "--rm", "--network=none", "profiled", "mkdir", "/d").returncode == 0
    done = prepared("run", "--rm", "--network=none", "--seccomp-policy", "image", "profiled", "mkdir", "/d")
    assert done.returncode == 1 and "Operation not permitted" in done.stderr


BAD = [
    ("--env-merge X=${ busybox true", "'${' is not a variable", "${NAME}"),
    ("--chrootdirs rel busybox true", "'rel' must be an absolute path", ""),
    ("--personality VMS busybox true", "VMS", ""),
    ("--security-opt label=type:x busybox true", "this host has no SELinux", "label=disable"),
    ("--systemd maybe busybox true", "maybe", ""),
    ("--uidmap 0:1:10 --userns keep-id busybox true", "--userns and --uidmap contradict", ""),
    ("--uidmap 0:1:99999999 busybox true", "there are 65537 ids", "/etc/subuid"),
    ("--uidmap 5:0:1 busybox true", "id 0 of the container is not mapped", "0:FROM"),
    ("--gidmap 0:@1:1 busybox true", "are not this user's", "/etc/subgid"),
    ("--subuidname no-such busybox true", "no range for 'no-such'", "/etc/subuid"),
    ("--userns ns:/proc/1/ns/user busybox true", "cannot be known", "container:NAME"),
    ("--userns container:no-such busybox true", 'no container with name or ID "no-such"', ""),
    ("-u 5 --passwd=false --passwd-entry a:b:c:d:e:f:g busybox true", "contradicts --passwd=false", ""),
    ("--group-entry a:b busybox true", "not a line of 4 fields", "$GROUPNAME"),
    ("--hostuser no-such busybox true", "no such user on this host", "--user"),
    ("--group-add keep-groups --group-add 5 busybox true", "not allowed with any other", ""),
    ("--hosts-file no-such busybox true", "no such file", "image"),
    ("--no-hosts --add-host a:192.0.2.1 busybox true", "cannot be set together", ""),
    ("--mac-address 92:d0:c6:0a:29 busybox true", "is not a hardware address", ""),
    ("--network none --mac-address 92:d0:c6:0a:29:33 busybox true", "--network=none", "default"),
    ("--rootfs root:idmap /busybox", "for root only", "root:O"),
    ("--preserve-fds 1 busybox true", "file descriptor 3 is not available", "3<FILE"),
    ("--preserve-fds 1 --preserve-fd 5 busybox true", "contradict", ""),
    ("--rmi --detach busybox true", "--rmi cannot be used with --detach", "rl rmi"),
    ("--rmi --rm=false busybox true", "--rm=false contradicts", ""),
    ("--gpus all busybox true", "unresolvable CDI devices nvidia.com/gpu=all", "nvidia-ctk"),
    ("--device example.com/card=1 busybox true", "unresolvable CDI devices example.com/card=1", "/etc/cdi"),
    ("--pod x busybox true", "--pod is not available: rl has no pods yet", "container:NAME"),
    ("--ip 192.0.2.1 busybox true", "--ip is not available", "pasta:-a"),
    ("--device-cgroup-rule 'c 1:3 rw' busybox true", "--device-cgroup-rule is not available", "--device"),
    ("--oom-kill-disable busybox true", "--oom-kill-disable", ""),
]


def test_run_refuses(prepared: Rl) -> None:
    for words, says, hint in BAD:
        told(prepared, f"run {words}", says, hint)
    assert prepared.containers() == []


def test_systemd_is_stopped_as_it_wants(prepared: Rl) -> None:
    wanted = [("--systemd=true busybox /sbin/init", "SIGRTMIN+3"), ("--systemd=false busybox /sbin/init", "SIGTERM"),
              ("--systemd=always --stop-signal INT busybox sh", "SIGINT")]
    for words, signal in wanted:
        identity = prepared.ok("create", *shlex.split(words))
        assert prepared.ok("inspect", "-f", "{{.Config.StopSignal}}", identity) == signal
    assert prepared.ok("inspect", "-f", "{{.Config.SystemdMode}}", identity) == "true"
    prepared.clean()


def test_descriptors_of_the_caller(prepared: Rl) -> None:
    line = ("rl run --rm --network=none --preserve-fds 2 busybox sh -c 'cat <&3; cat <&4' 3<base 4<base; "
            "rl run --rm --network=none --preserve-fd 5,7 busybox sh -c 'cat <&5; cat <&7; ls /proc/self/fd/6' 5<base 6<base 7<base")
    done = prepared.user.run("bash", "-c", line)
    assert done.stdout == "192.0.2.9 from-file\n" * 4 and "/proc/self/fd/6: No such file" in done.stderr


def test_hardware_address(prepared: Rl) -> None:
    mac = "92:d0:c6:0a:29:33"
    for network in ("pasta", "slirp4netns"):
        words = ["run", "--rm", f"--network={network}", "--mac-address", mac, "busybox", "sh", "-c", "cat /sys/class/net/*/address"]
        assert mac in prepared.ok(*words).split()


def test_user_namespace_of_another(prepared: Rl) -> None:
    prepared.ok("run", "-d", "--name", "first", "--network=none", "--userns=keep-id", "busybox", "sleep", "60")
    script = "cat /proc/self/uid_map; ps | grep -c 'sleep 6[0]'"
    words = ["--userns=container:first", "--pid=container:first", "--network=container:first"]
    lines = prepared.ok("run", "--rm", *words, "busybox", "sh", "-c", script).split("\n")
    assert lines[0].split() == ["0", "1", str(prepared.user.uid)] and lines[-1] == "1"
    own = prepared.ok("run", "--rm", "--network=none", "--userns=container:first", "busybox", "ls", "/sys/class/net")
    assert own == "lo"
    prepared.ok("rm", "-f", "-t", "0", "first")


def test_devices_of_a_vendor(prepared: Rl) -> None:
    """By CDI: nodes, mounts, variables and a hook; a test of real cards takes real cards."""
    rl, home = prepared, prepared.user.home
    edits = {"deviceNodes": [{"path": "/dev/card0", "hostPath": "/dev/zero"}], "env": ["CARD=0"],
             "mounts": [{"hostPath": str(home / "base"), "containerPath": "/opt/driver", "options": ["ro", "nosuid"]}],
             "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", f"cat > {home}/hook-state"]}]}
    (home / "cdi").mkdir(exist_ok=True)
    (home / "cdi/card.json").write_text(json.dumps(
        {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", "containerEdits": edits}]}
    ))
    conf = {"CONTAINERS_CONF": str(home / "cdi.conf")}
    (home / "cdi.conf").write_text(f'[engine]\ncdi_spec_dirs = ["{home}/cdi"]\n')
    script = "head -c 3 /dev/card0 | wc -c; cat /opt/driver; echo $CARD"
    for words in (["--device", "nvidia.com/gpu=0"], ["--gpus", "0"]):
        done = rl("run", "--rm", "--network=none", *words, "busybox", "sh", "-c", script, env=conf)
        assert done.stdout == "3\n192.0.2.9 from-file\n0\n", done.stderr
        assert json.loads((home / "hook-state").read_text())["status"] == "creating"
        (home / "hook-state").unlink()


def test_rmi_and_password_of_the_pull(prepared: Rl) -> None:
    prepared.ok("tag", "busybox", "short-lived")
    prepared.ok("run", "--rmi", "--network=none", "short-lived", "true")
    assert "short-lived" not in prepared.ok("images") and prepared.containers() == []
    identity = prepared.ok("create", "--creds", "me:hunter2", "busybox", "true")
    assert "hunter2" not in prepared.ok("inspect", identity)
    prepared.clean()


def test_update_of_the_environment(prepared: Rl) -> None:
    prepared.ok("run", "-d", "--name", "up", "--network=none", "-e", "A=1", "-e", "B=2", "busybox", "sh", "-c", "env; exec sleep 60")
    prepared.ok("update", "up", "--env", "A=x", "--env", "C=3", "--unsetenv", "B")
    for _ in range(2):
        lines = prepared.ok("exec", "up", "env").split("\n")
        assert "A=x" in lines and "C=3" in lines and "B=2" not in lines
        assert "B=2" not in prepared.ok("inspect", "-f", "{{.Config.Env}}", "up")
        prepared.ok("restart", "-t", "0", "up")
    done = prepared("update", "up", "--env", "A=1", "--unsetenv", "A")
    assert done.returncode == 125 and "contradict" in done.stderr
    prepared.ok("rm", "-f", "-t", "0", "up")
