"""--log-driver journald with a real journal."""

from __future__ import annotations

import json

from conftest import Vm

NONE = ("--network", "none")


def test_fields_and_logs(vm: Vm) -> None:
    """The journal has the fields that it would have of conmon; `rl logs` gives back what was written, where it was."""
    script = r"echo out; echo err >&2; printf '\377\000\n'; echo; printf 'no end'"
    flags = ("--log-driver", "journald", "--log-opt", "tag={{.ImageName}}/{{.Name}}", "--log-opt", "label=APP=shop")
    identity = vm.ok("run", "-d", "--name", "j", *NONE, *flags, "busybox", "sh", "-c", script)
    assert vm.ok("wait", "j") == "0"
    lines = vm.sh("journalctl --user --sync 2>/dev/null || true; journalctl --user -q -o json CONTAINER_NAME=j").splitlines()
    entries = [json.loads(line) for line in lines]
    tag = "docker.io/library/busybox:latest/j"
    for entry in entries:
        fields = {"CONTAINER_ID": identity[:12], "CONTAINER_ID_FULL": identity, "CONTAINER_TAG": tag, "SYSLOG_IDENTIFIER": tag,
                  "APP": "shop", "_UID": "1000"}  # fmt: skip
        assert fields.items() <= entry.items(), entry
    by_stream = {
        number: [(entry["MESSAGE"], entry.get("CONTAINER_PARTIAL_MESSAGE")) for entry in entries if entry["PRIORITY"] == number]
        for number in ("6", "3")
    }
    assert by_stream["3"] == [("err", None)]
    assert by_stream["6"] == [("out", None), ([255, 0], None), ("", None), ("no end", "true")]
    done = vm.rl("logs", "j")
    assert (done.stdout, done.stderr) == ("out\n\udcff\0\n\nno end", "err\n")
    assert vm.ok("inspect", "--format", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Tag}}", "j") == f"journald {tag}"
    # Somebody else's entry with the same id is none of the container's.
    vm.root(f"printf 'MESSAGE=forged\\nCONTAINER_ID_FULL={identity}\\n' | python3 -c 'import socket,sys;"
            "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.stdin.buffer.read(), \"/run/systemd/journal/socket\")'")
    assert "forged" not in vm.rl("logs", "j").stdout
    vm.ok("rm", "j")


def test_a_journal_that_may_not_be_read(vm: Vm) -> None:
    """An empty answer would be a lie."""
    vm.ok("run", "--name", "secret", *NONE, "--log-driver", "journald", "busybox", "echo", "hi")
    assert vm.ok("logs", "secret") == "hi"
    mode = vm.root("stat -c %a /var/log/journal; chmod 700 /var/log/journal")
    try:
        done = vm.rl("logs", "secret")
        assert done.returncode == 125 and "insufficient permissions" in done.stderr and "systemd-journal" in done.stderr, done
    finally:
        vm.root(f"chmod {mode} /var/log/journal")
    assert vm.ok("logs", "secret") == "hi"
    vm.ok("rm", "secret")


def test_follow_tail_since_until(vm: Vm) -> None:
    loop = "for i in 1 2 3 4 5 6; do echo tick $i; sleep 1; done"
    vm.ok("run", "-d", "--name", "ticks", *NONE, "--log-driver", "journald", "busybox", "sh", "-c", loop)
    followed = vm.rl("logs", "-f", "--tail", "1", "ticks").stdout.splitlines()
    everything = [f"tick {n}" for n in range(1, 7)]
    assert followed and followed == everything[-len(followed) :], followed
    assert vm.ok("logs", "ticks").splitlines() == everything
    assert vm.ok("logs", "--tail", "2", "ticks").splitlines() == everything[-2:]
    assert vm.ok("logs", "--tail", "0", "ticks") == ""
    stamped = [line.split(" ", 1) for line in vm.ok("logs", "-t", "ticks").splitlines()]
    assert [text for _, text in stamped] == everything
    assert vm.ok("logs", "--since", stamped[3][0], "ticks").splitlines() == everything[3:]
    assert vm.ok("logs", "--until", stamped[3][0], "ticks").splitlines() == everything[:4]
    vm.ok("rm", "ticks")


def test_many_lines_and_a_journal_that_starts_again(vm: Vm) -> None:
    """A burst is held back, not lost; the journal can be restarted under a container that logs."""
    script = "seq 3000; touch /done; while [ ! -e /more ]; do sleep 0.2; done; seq 3001 3010"
    vm.ok("run", "-d", "--name", "many", *NONE, "--log-driver", "journald", "busybox", "sh", "-c", script)
    vm.eventually("rl exec many test -e /done && echo yes", "yes", 120)
    vm.root("systemctl restart systemd-journald.service")
    vm.ok("exec", "many", "touch", "/more")
    assert vm.ok("wait", "many") == "0"
    assert vm.ok("logs", "many").splitlines() == [str(n) for n in range(1, 3011)]
    assert "lost" not in vm.sh("cat ~/.local/share/rl/containers/*/state.json")
    vm.ok("rm", "many")


def test_events_in_the_journal(vm: Vm) -> None:
    """Podman's field names; read back, and followed as they come."""
    began = vm.sh("date +%s.%N").strip()
    backend = "--events-backend=journald"
    assert vm.rl(backend, "run", "--name", "told", *NONE, "--label", "a=b\nc", "busybox", "false").returncode == 1
    vm.sh("journalctl --user --sync 2>/dev/null || true")
    show = (backend, "events", "--since", began, "--filter", "container=told", "--format")
    seen = vm.ok(*show, "{{.Status}} {{.ContainerExitCode}} {{.Attributes.a}}", "--stream=false").replace("b\nc", "b-c")
    statuses = ["create 0", "init 0", "start 0", "attach 0", "died 1", "cleanup 0"]
    assert seen.splitlines() == [f"{status} b-c" for status in statuses]
    died = json.loads(vm.sh("journalctl --user -q -o json PODMAN_EVENT=died PODMAN_NAME=told"))
    wanted = {"PODMAN_TYPE": "container", "PODMAN_EXIT_CODE": "1", "SYSLOG_IDENTIFIER": "rl", "_UID": "1000",
              "PODMAN_IMAGE": "docker.io/library/busybox:latest"}  # fmt: skip
    assert wanted.items() <= died.items() and json.loads(died["PODMAN_LABELS"]) == {"a": "b\nc"}
    followed = vm.sh(f"(sleep 2; rl {backend} rm told >/dev/null) & "
                     f"rl {backend} events --since 0s --until 8s --filter container=told --format '{{{{.Status}}}}'")
    assert followed.split() == ["remove"]
    assert vm.ok("events", "--since", began, "--stream=false", "--filter", "container=told") == ""  # those of the file
