"""Wrong input: one clear error, a hint, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry
from system.conftest import Rl, eventually, free_port, unique_user


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS (a certificate of its own) and basic authentication."""
    with Registry(tmp_path_factory.mktemp("secured"), tls=True, users={"someone": "secret"}) as server:
        server.push_archive(images.busybox(tmp_path_factory.mktemp("push")), "busybox:latest")
        yield server


def refused(rl: Rl, *arguments: str, code: int = 125, says: str, hint: str = "") -> None:
    """The command fails with *code*, one `Error:` line that holds *says*, a hint that holds *hint*; no container is left."""
    done = rl(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and says in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    if hint:
        assert any(line.startswith("hint: ") and hint in line for line in done.stderr.splitlines()), done.stderr
    assert rl.containers() == []
    eventually(lambda: not list((rl.run_dir / "containers").iterdir()))


@pytest.mark.parametrize(
    ("arguments", "code", "says", "hint"),
    [
        (["run", "--rm", "busybox", "no-such"], 127, "no-such", ""),
        (["run", "busybox", "no-such"], 127, "no-such", ""),
        (["run", "--rm", "busybox", "/etc/not-executable"], 126, "not-executable", ""),
        (["run", "--user", "nobody-here", "busybox"], 125, "nobody-here", "numeric"),
        (["run", "-v", "/no/such/path:/x", "busybox"], 125, "/no/such/path", "mkdir"),
        (["run", "-v", "a:b:c:d", "busybox"], 125, "a:b:c:d", "SOURCE"),
        (["run", "--memory", "lots", "busybox"], 125, "lots", ""),
        (["run", "--pids-limit", "x", "busybox"], 125, "x", ""),
        (["run", "-p", "99999:80", "busybox"], 125, "99999", ""),
        (["run", "-p", "abc", "busybox"], 125, "abc", ""),
        (["run", "--network", "no-such-net", "busybox"], 125, "no-such-net", "pasta"),
        (["run", "--cap-add", "NO_SUCH", "busybox"], 125, "NO_SUCH", ""),
        (["run", "--ulimit", "files=1", "busybox"], 125, "files=1", ""),
        (["run", "--userns", "weird", "busybox"], 125, "weird", "keep-id"),
        (["run", "--workdir", "rel", "busybox"], 125, "rel", ""),
        (["run", "--entrypoint", "[bad", "busybox"], 125, "[bad", ""),
        (["run", "--log-driver", "nowhere", "busybox"], 125, "nowhere", ""),
        (["run", "--sysctl", "kernel.panic=1", "busybox"], 125, "kernel.panic", ""),
        (["run", "--security-opt", "seccomp=/no/such", "busybox"], 125, "/no/such", ""),
        (["run", "--name", "bad/name", "busybox"], 125, "bad/name", ""),
        (["run", "--no-such-flag", "busybox"], 125, "--no-such-flag", ""),
        (["run"], 125, "", ""),
        (["no-such-verb"], 125, "no-such-verb", ""),
        (["run", "UPPER/case", "true"], 125, "UPPER", ""),
        (["start", "no-such"], 125, "no-such", ""),
        (["exec", "no-such", "true"], 125, "no-such", ""),
        (["inspect", "no-such"], 125, "no-such", ""),
        (["logs", "no-such"], 125, "no-such", ""),
        (["ps", "--filter", "bogus=1"], 125, "bogus", ""),
        (["inspect", "--format", "{{.Id", "busybox"], 125, "", ""),
        (["rm", "no-such"], 1, "no-such", ""),
        (["rmi", "no-such"], 1, "no-such", ""),
        (["load", "-i", "/etc/passwd"], 125, "/etc/passwd", ""),
        (["import", "/no/such/file"], 125, "/no/such/file", ""),
    ],
)
def test_refused(rl: Rl, arguments: list[str], code: int, says: str, hint: str) -> None:
    refused(rl, *arguments, code=code, says=says, hint=hint)


def test_image_that_does_not_exist(rl: Rl, registry: Registry) -> None:
    refused(rl, "run", "--rm", f"{registry.host}/no-such:1", "true", says="no-such")
    refused(rl, "pull", f"{registry.host}/busybox:no-such-tag", says="no-such-tag")


def test_registry_that_is_down(rl: Rl) -> None:
    refused(rl, "run", "--rm", f"127.0.0.1:{free_port()}/busybox", "true", says="refused")


def test_wrong_credentials_and_certificates(rl: Rl, secured: Registry) -> None:
    image = f"{secured.host}/busybox"
    refused(rl, "pull", "--tls-verify=true", image, says="certificate", hint="certs.d")
    refused(rl, "pull", "--tls-verify=false", image, says="", hint="rl login")
    refused(rl, "pull", "--tls-verify=false", "--creds", "someone:wrong", image, says="", hint="")
    done = rl("login", "--tls-verify=false", "-u", "someone", "-p", "wrong", secured.host)
    assert done.returncode == 125
    assert "Login Succeeded" in rl.ok("login", "--tls-verify=false", "-u", "someone", "-p", "secret", secured.host)
    rl.ok("pull", "-q", "--disable-content-trust", "--tls-verify=false", image)
    rl.ok("logout", secured.host)
    rl.ok("rmi", image)


def test_platform_that_is_not_there(rl: Rl, registry: Registry) -> None:
    refused(rl, "pull", "--platform", "linux/s390x", f"{registry.host}/busybox", says="s390x")


def test_name_in_use(rl: Rl) -> None:
    rl.ok("create", "--name", "taken", "busybox", "true")
    done = rl("run", "--name", "taken", "busybox", "true")
    assert done.returncode == 125 and "taken" in done.stderr and "rl rm taken" in done.stderr
    assert len(rl.containers()) == 1
    rl.ok("run", "--rm", "--replace", "--name", "taken", "busybox", "true")
    assert rl.containers() == []


def test_port_in_use_and_privileged_port(rl: Rl) -> None:
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        refused(rl, "run", "-d", "-p", f"127.0.0.1:{port}:80", "busybox", "true", says=str(port))
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if start > 81:
        refused(rl, "run", "-d", "-p", "81:80", "busybox", "true", says="81", hint="ip_unprivileged_port_start")


def test_corrupt_record_is_named_and_others_are_unaffected(rl: Rl) -> None:
    good = rl.ok("create", "--name", "good", "busybox", "true")
    bad = rl.ok("create", "--name", "bad", "busybox", "true")
    for file in ("config.json", "state.json"):
        path = rl.data / "containers" / bad / file
        before = path.read_bytes()
        for damage in (b"{", b"", b"[1, 2]", b"\xff\xfe"):
            if (file, damage) == ("state.json", b""):
                continue  # what a power cut leaves: repaired on sight, see the unit tests of records
            path.write_bytes(damage)
            done = rl("inspect", "bad")
            assert done.returncode == 125 and str(path) in done.stderr, done.stderr
            listed = rl("ps", "-a", "-q", "--no-trunc")
            assert good in listed.stdout
            assert str(path) in listed.stderr
            assert "Traceback" not in done.stderr + listed.stderr
        path.write_bytes(before)
    (rl.data / "containers" / bad / "config.json").write_bytes(b"{")
    assert rl("rm", "good").returncode == 0
    assert rl("rm", "-f", bad).returncode == 0
    assert rl.containers() == []


def without(rl: Rl, script: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run rl in a private mount namespace where *script* (as root) took something away."""
    drop = rl.user.argv(["rl", *command])
    return subprocess.run(
        ["unshare", "--mount", "bash", "-euc", script + '\nexec "$@"', "bash", *drop],
        env=rl.user.env(), cwd=rl.user.home, capture_output=True, text=True, timeout=120,
    )


def test_without_newuidmap(busybox_archive: Path) -> None:
    """A lower rung, said aloud with the fix; the container runs."""
    rl = Rl(unique_user("rltest-nomap"))
    hide = "for f in /usr/bin/newuidmap /usr/bin/newgidmap; do mount --bind /dev/null $f; done"
    done = without(rl, hide, "load", "-q", "-i", str(busybox_archive))
    assert done.returncode == 0, done.stderr
    done = without(rl, hide, "run", "--rm", "busybox", "cat", "/proc/self/uid_map")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(rl.user.uid), "1"]
    done = without(rl, hide, "info")
    assert "uidmap" in done.stdout
    users.wipe(rl.user)


def test_without_subordinate_ids(busybox_archive: Path) -> None:
    rl = Rl(unique_user("rltest-nosub", subids=False))
    rl.ok("load", "-q", "-i", busybox_archive)
    assert rl.ok("run", "--rm", "busybox", "id", "-u") == "0"
    assert "usermod --add-subuids" in rl.ok("info")
    refused(rl, "run", "--rm", "--userns", "keep-id", "busybox", says="keep-id", hint="usermod")
    users.wipe(rl.user)


def test_without_user_namespaces(rl: Rl) -> None:
    """The sysctl is the initial namespace's: a nested one with a limit of 0 behaves as a host without them."""
    inner = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    done = subprocess.run(
        rl.user.argv(["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc", inner, "bash", "rl", "run", "--rm",
                      "busybox", "true"]),
        env=rl.user.env(), cwd=rl.user.home, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 125, done.stdout + done.stderr
    assert "user namespace" in done.stderr and "max_user_namespaces" in done.stderr


def test_without_tun_device(rl: Rl) -> None:
    hide = "mount -t tmpfs none /dev/net"
    done = without(rl, hide, "run", "--rm", "busybox", "echo", "host network")
    assert done.returncode == 0 and done.stdout == "host network\n", done.stderr
    assert "Warning: " in done.stderr and "/dev/net/tun" in done.stderr
    done = without(rl, hide, "run", "--rm", "--network", "pasta", "busybox", "true")
    assert done.returncode == 125 and "/dev/net/tun" in done.stderr and "hint: " in done.stderr


def test_full_disk(busybox_archive: Path, tmp_path: Path) -> None:
    """Import, run and create on a full file system: clear errors, nothing half made; space back, all works."""
    rl = Rl(unique_user("rltest-full"))
    mount = rl.user.home / "small"
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=24m,uid={rl.user.uid},mode=700", "none", str(mount)], check=True)
    try:
        rl.flags = ["--root", str(mount / "rl")]
        rl.ok("load", "-q", "-i", busybox_archive)
        filler = mount / "filler"
        rl.user.run("dd", "if=/dev/zero", f"of={filler}", "bs=4096", "count=100000")
        for command in (["run", "--rm", "busybox", "true"], ["create", "busybox"], ["tag", "busybox", "other"],
                        ["load", "-i", str(busybox_archive)]):
            done = rl(*command)
            assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
            if done.returncode:
                assert "No space left" in done.stderr, done.stderr
        filler.unlink()
        assert rl.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
        assert rl.containers() == []
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
        users.wipe(rl.user)


def test_messages_go_to_stderr_and_json_stays_json(rl: Rl) -> None:
    rl.ok("create", "--name", "one", "busybox", "true")
    document = json.loads(rl.ok("inspect", "one"))
    assert document[0]["Name"] == "one"
    done = rl("inspect", "one", "no-such")
    assert done.returncode == 125 and json.loads(done.stdout)[0]["Name"] == "one"
    assert os.path.exists(rl.data / "containers" / document[0]["Id"])
