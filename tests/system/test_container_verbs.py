"""The container verbs: ps and its filters, stop, kill, rm, start, wait, rename, clone, cleanup, prune, pause, dependencies.

One table of wrong lines drives every verb against the same few containers; then what the right ones do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from support.cgroup_lane import CgroupLane
from system.conftest import Done, Rl, eventually

Row = TypeVar("Row")
_ID = re.compile(r"[0-9a-f]{64}")
NO_SUCH = 'no container with name or ID "nosuch" found: no such container'
IMPROPER = "container state improper"


@pytest.fixture(scope="module")
def box(_user_rl: Rl) -> Iterator[Rl]:
    """`run` runs, `made` was created, `over` has ended with 3; `needy` requires `made`."""
    rl = _user_rl
    rl.ok("create", "--network=none", "--name", "made", "-l", "a=1", "busybox", "true")
    rl.ok("create", "--network=none", "--name", "needy", "--requires", "made", "busybox", "true")
    rl("run", "--network=none", "--name", "over", "busybox", "sh", "-c", "echo hello; exit 3")
    rl.ok("run", "-d", "--network=none", "--name", "run", "--stop-timeout", "0", "busybox", "sleep", "1000")
    yield rl
    rl.clean()


# (line, exit code, what standard error says; ids as ID)
WRONG = [
    *((f"{verb} nosuch", 125, NO_SUCH) for verb in (
        "stop", "kill", "start", "wait", "pause", "unpause", "port", "container inspect", "attach", "top", "container clone",
        "container cleanup", "rename nosuch",
    )),
    ("rm nosuch", 1, NO_SUCH),
    ("inspect nosuch", 125, 'no such object: "nosuch"'),
    *((verb, 125, "you must provide at least one name or id") for verb in (
        "stop", "kill", "rm", "start", "pause", "unpause", "container cleanup",
    )),
    ("wait", 125, '"rl wait" requires a name, id, or the "--latest" flag'),
    *((f"{verb} -a run", 125, "no arguments are needed with --all") for verb in (
        "stop", "kill", "rm", "pause", "unpause", "port", "container cleanup",
    )),
    ("start --all run", 125, "no arguments are needed with --all"),
    *((f"{verb} -l run", 125, "--latest and containers cannot be used together") for verb in (
        "stop", "kill", "rm", "start", "wait", "pause", "unpause", "container cleanup", "inspect",
    )),
    *((f"{verb} -a -l", 125, "--all and --latest cannot be used together") for verb in (
        "stop", "kill", "rm", "pause", "unpause", "port",
    )),
    *((f"{verb} --cidfile /nosuch", 125, "reading CIDFile: open /nosuch: no such file or directory") for verb in (
        "stop", "kill", "rm", "pause", "unpause",
    )),
    ("stop --cidfile /nosuch -a", 125, "--all, --latest, and --cidfile cannot be used together"),
    *((f"{verb} --filter name=run run", 125, "--filter takes no arguments") for verb in (
        "stop", "kill", "rm", "wait", "pause", "unpause", "restart",
    )),
    *((f"{verb} --filter bogus=1", 125, "bogus is an invalid filter") for verb in (
        "ps", "stop", "kill", "rm", "start", "wait", "pause", "unpause", "restart", "container prune -f",
    )),
    ("ps -f bogus", 125, 'invalid filter "bogus"'),
    ("ps -f status=odd", 125, "unknown container state: odd: invalid argument"),
    ("ps -f before=nosuch", 125, NO_SUCH),
    ("ps -q -s", 125, "quiet conflicts with size and namespace"),
    ("ps -l -n 2", 125, "last and latest are mutually exclusive"),
    ("ps -s --ns", 125, "size and namespace options conflict"),
    ("ps --sort odd", 125, '"odd" is not a valid value'),
    ("ps -w odd", 125, "odd"),
    ("ps odd", 125, "`rl ps` takes no arguments"),
    ("ps -a --format {{.Odd}}", 125, "can't evaluate field Odd"),
    ("ps -a --format {{.ID", 125, "template"),
    ("inspect --format {{.Odd}} made", 125, "can't evaluate field Odd"),
    ("stop -t odd run", 125, '"odd" is not a whole number'),
    ("kill made", 125, f"can only kill running containers. ID is in state created: {IMPROPER}"),
    ("kill over", 125, f"can only kill running containers. ID is in state exited: {IMPROPER}"),
    ("kill -s ODD run", 125, "invalid signal: ODD"),
    ("rm run", 2, f"cannot be removed without force: {IMPROPER}"),
    ("rm nosuch run", 1, NO_SUCH),
    ("rm -t 3 run", 125, "--force option must be specified to use the --time option"),
    ("rm made", 125, "container ID has dependent containers which must be removed before it: ID: container already exists"),
    ("rm -f made", 125, "has dependent containers"),
    ("start -a run made", 125, "you cannot start and attach multiple containers at once"),
    ("start --all -a", 125, "you cannot start and attach all containers at once"),
    ("start --sig-proxy over", 125, "you cannot use sig-proxy without --attach"),
    ("wait --condition odd over", 125, "unknown container state: odd: invalid argument"),
    ("wait --interval odd over", 125, 'time: invalid duration "odd"'),
    ("pause made", 125, f'"created" is not running, can\'t pause: {IMPROPER}'),
    ("unpause over", 125, f'"ID" is not paused, can\'t unpause: {IMPROPER}'),
    ("attach over", 125, "you can only attach to running containers: over is exited"),
    ("rename made", 125, "accepts 2 arg(s), received 1"),
    ("rename made over", 125, "name over already in use, cannot rename container ID: container already exists"),
    ("rename made a/b", 125, "names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument"),
    ("create --requires nosuch busybox", 125, '"nosuch" is not a valid container, cannot be used as a dependency'),
    ("container exists", 125, "accepts 1 arg(s), received 0"),
    ("container clone", 125, "accepts between 1 and 3 arg(s), received 0"),
    ("container clone made over", 125, "the container name 'over' is already in use"),
    ("container clone --force made x", 125, "cannot set --force without --destroy: invalid argument"),
    ("container clone --destroy made x", 125, "has dependent containers"),
    ("container clone --destroy run x", 125, "cannot be removed without force"),
    ("container clone --pod p over x", 125, "--pod"),
    ("container clone -m odd over x", 125, "--memory"),
    ("container clone --cpu-rt-period 5 --cpu-rt-runtime 5 --memory-swappiness 5 over x", 125, "cgroup v2 has no such setting"),
    ("container clone --device-read-bps /dev/no:1m --device-read-iops /dev/no:1 --device-write-bps /dev/no:1m "
     "--device-write-iops /dev/no:1 --blkio-weight-device /dev/no:100 over x", 125, "/dev/no"),
    ("container cleanup run", 125, f"container ID is running or paused, refusing to clean up: {IMPROPER}"),
    ("container cleanup --exec x over", 125, "has no exec session with ID x"),
    ("container cleanup --exec x -a", 125, "exec and all options conflict"),
    ("container cleanup --exec x --rmi over", 125, "cannot clean up exec session and remove image at the same time"),
    ("container prune", 125, "EOF"),
    ("container prune --force --filter name=x", 125, "name is an invalid filter"),
    ("container prune -f --filter until=odd", 125, 'failed to parse value as time or duration: "odd"'),
    ("container prune odd", 125, "takes no arguments"),
    *((f"container {verb} {arguments}", 125, f"`container {verb}` is not available: CRIU needs CAP_CHECKPOINT_RESTORE")
      for verb in ("checkpoint", "restore") for arguments in ("", "run", "-a", "--keep --tcp-established run")),
    ("container runlabel foo", 125, "requires at least 2 arg(s), only received 1"),
    ("container runlabel --authfile /no --cert-dir /no --creds a:b --tls-verify=false foo busybox", 125, "cannot find the value of label: foo in image: busybox"),
]  # fmt: skip


def side_by_side(check: Callable[[Row], str], rows: Sequence[Row]) -> list[str]:
    """The lines change nothing, so they need not wait for each other."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(check, rows))


def test_wrong_lines(box: Rl) -> None:
    """One error and a hint each; and when all are through, nothing has changed."""
    before = box.ok("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}")

    def wrong(row: tuple[str, int, str]) -> str:
        line, code, says = row
        done = box(*shlex.split(line))
        errors = [_ID.sub("ID", each) for each in done.stderr.splitlines() if "Error: " in each]
        helped = "hint: " in done.stderr or "See 'rl " in done.stderr
        if done.returncode == code and helped and any(says in each for each in errors) and "Traceback" not in done.stderr:
            return ""
        return f"rl {line}: {done.returncode}\n{done.stdout}{done.stderr}"

    assert "".join(side_by_side(wrong, WRONG)) == ""
    assert box.ok("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}") == before


def test_an_ambiguous_id(box: Rl) -> None:
    """Two ids that begin alike are made by hand: they are random."""
    ids = ["ab" * 31 + end for end in ("c1", "c2")]
    source = box.data / "containers" / box.ok("inspect", "--format", "{{.Id}}", "over")
    try:
        for container_id in ids:
            copy = source.parent / container_id
            copy.mkdir()
            for name in ("config.json", "state.json"):
                (copy / name).write_text((source / name).read_text().replace(source.name, container_id))
        for verb in ("stop", "kill", "start", "wait", "pause", "rm", "port", "inspect", "container clone", "rename x"):
            words = verb.split()
            done = box(*words[:1], "ababab", "x") if words[0] == "rename" else box(*words, "ababab")
            assert done.returncode == 125 and "2 containers have an id that begins with ababab" in done.stderr, done.stderr
    finally:
        subprocess.run(["rm", "-rf", *(str(source.parent / each) for each in ids)], check=True)


# (line, standard output; ids as ID)
RIGHT = [
    ("ps --format {{.Names}}", "run"),
    ("ps -a --sync --external --sort names --format {{.Names}}", "made\nneedy\nover\nrun"),
    ("ps -a --noheading --sort status --format '{{.Names}} {{.State}}'", "made created\nneedy created\nover exited\nrun running"),
    ("ps -a -f exited=3 --format '{{.Names}} {{.ExitCode}}'", "over 3"),
    ("ps -f status=created --sort names --format {{.Names}}", "made\nneedy"),
    ("ps -a -f label=a=1 --format {{.Names}}", "made"),
    ("ps -a -f ancestor=busybox -f name=^o --format {{.Names}}", "over"),
    ("ps -a -f since=made -f before=over --format {{.Names}}", "needy"),
    ("ps -l --format {{.Names}}", "run"),
    ("ps -n 2 --format {{.Names}}", "over\nrun"),
    ("ps -q --no-trunc", "ID"),
    ("ps -a -f name=over --format 'table {{.Names}} {{.Command}}'", "NAMES       COMMAND\nover        sh -c echo hello;..."),
    ("ps -a --filter name=over --pod --noheading --format '{{.Pod}}{{.PodName}}.'", "."),
    ("stop made", "made"),
    ("stop --ignore --cidfile /nosuch", ""),
    ("stop --filter name=none", ""),
    ("stop --filter name=none --all", ""),
    ("kill --filter name=none", ""),
    ("rm --filter name=none", ""),
    ("rm --ignore nosuch", ""),
    ("start run", "run"),
    ("start --filter name=none", ""),
    ("wait over", "3"),
    ("wait made", "0"),
    ("wait --condition exited --condition running run over", "-1\n3"),
    ("wait --condition created made", "-1"),
    ("wait --exit-first-match --interval 100 run over", "3"),
    ("wait --ignore nosuch", "-1"),
    ("wait --filter name=over", "3"),
    ("wait --latest --condition running", "-1"),
    ("port -a", ""),
    ("port --latest", ""),
    ("rename over over", ""),
    ("container exists over", ""),
    ("container exists --external over", ""),
    ("container cleanup over", "over"),
    ("container cleanup --latest --stopped-only", ""),
    ("container inspect --size --latest --format '{{.Name}} {{.SizeRw}}'", "run 0"),
    ("container prune --force --filter label=none", ""),
    ("pause --filter name=none", ""),
    ("unpause -a", ""),
]


def test_right_lines(box: Rl) -> None:
    def right(row: tuple[str, str]) -> str:
        line, expected = row
        done = box(*shlex.split(line))
        if done.returncode == 0 and _ID.sub("ID", done.stdout).removesuffix("\n") == expected:
            return ""
        return f"rl {line}: {done.returncode}\n{done.stdout}{done.stderr}"

    assert "".join(side_by_side(right, RIGHT)) == ""


def test_start_attached(box: Rl) -> None:
    done = box("start", "--attach", "--interactive", "--detach-keys", "", "--sig-proxy=false", "over")
    assert (done.returncode, done.stdout) == (3, "hello\n")


def test_ps_shows_pods_sizes_and_json(box: Rl) -> None:
    heading, line = box.ok("ps", "--pod", "--size", "--filter", "name=run").splitlines()
    assert re.search("NAMES +POD ID +PODNAME +SIZE$", heading)
    assert re.search(r"run +0B \(virtual \d+\.?\d*MB\)$", line)
    (row,) = json.loads(box.ok("ps", "--format", "json", "--latest"))
    assert {"Id", "Names", "Pod", "PodName", "Namespaces", "Size", "State", "Status", "Created"} <= set(row)
    assert box.ok("ps", "--ns", "--noheading").split()[2] == str(row["Pid"])


#: Keys of the document that Podman 4.3 prints of a container, and that have no meaning here: its own annotations.
PODMAN_KEYS = """
AppArmorProfile Args BoundingCaps Config ConmonPidFile Created Dependencies Driver EffectiveCaps ExecIDs GraphDriver
HostConfig HostnamePath HostsPath Id Image ImageDigest ImageName IsInfra IsService MountLabel Mounts Name Namespace
NetworkSettings OCIConfigPath OCIRuntime Path PidFile Pod ProcessLabel ResolvConfPath RestartCount Rootfs SizeRootFs SizeRw
State StaticDir
""".split()


def test_inspect_has_podmans_keys(box: Rl) -> None:
    (document,) = json.loads(box.ok("container", "inspect", "--size", "over"))
    assert set(PODMAN_KEYS) - set(document) == set()
    state = document["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"], document["Config"]["Cmd"]) == (
        "exited", 3, 0, ["sh", "-c", "echo hello; exit 3"],
    )
    box.ok("create", "--network=none", "--name", "caps", "--cap-add", "net_admin", "--user", "5", "busybox", "true")
    assert box.ok("inspect", "--format", "{{.EffectiveCaps}}", "caps") == "[CAP_NET_ADMIN]"
    box.ok("rm", "caps")


def test_ps_watches(box: Rl) -> None:
    process = box.user.popen("rl", "ps", "--watch", "1", "--quiet", stdout=subprocess.PIPE)
    assert process.stdout
    try:
        assert process.stdout.readline() == process.stdout.readline() == box.ok("ps", "-q").encode() + b"\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_chain_of_containers(box: Rl, tmp_path: Path) -> None:
    """Started in order, kept while needed, removed with --depend; the same for the network of another container."""
    box.ok("create", "--network=none", "--name", "one", "busybox", "sleep", "1000")
    box.ok("create", "--network=container:one", "--name", "two", "busybox", "sleep", "1000")
    box.ok("run", "-d", "--network=none", "--name", "three", "--requires", "two", "busybox", "sleep", "1000")
    names = ["--format", "{{.Names}}", "--sort", "names", "--filter", "name=one", "--filter", "name=t"]
    assert box.ok("ps", *names) == "one\nthree\ntwo"
    assert box.ok("inspect", "--format", "{{len .Dependencies}}", "three") == "1"
    assert box("rm", "--force", "--time", "0", "two").returncode == 125
    assert box("rm", "--depend", "one").returncode == 2  # they run
    assert len(box.ok("rm", "-f", "-t", "0", "--depend", "one").split()) == 3
    assert box.ok("ps", "-a", *names) == ""


def test_rename(box: Rl) -> None:
    """Of one that runs, with --rm: the new name is free again when it has ended."""
    box.ok("run", "-d", "--rm", "--network=none", "--name", "before", "busybox", "sleep", "1000")
    box.ok("rename", "before", "after")
    assert box.ok("inspect", "--format", "{{.Name}}", "after") == "after"
    assert not (box.data / "names/before").exists() and (box.data / "names/after").is_symlink()
    box.ok("kill", "after")
    eventually(lambda: not (box.data / "names/after").is_symlink())
    assert box("container", "exists", "after").returncode == 1


def test_a_killed_rename_leaves_one_name(box: Rl) -> None:
    link = box.data / "names/second"
    link.symlink_to(box.data / "names" / (box.data / "names/over").readlink())
    assert box.ok("inspect", "--format", "{{.Name}}", "second") == "over"
    box.ok("ps")
    assert not link.is_symlink() and box("container", "exists", "over").returncode == 0


def test_clone(box: Rl) -> None:
    box.ok("create", "--network=none", "--name", "origin", "-e", "A=b", "-v", "/anonymous", "-m", "64m", "busybox", "env")
    first = box.ok("container", "clone", "--cpus", "0.5", "--memory-swap", "-1", "origin")
    limits = "--blkio-weight 100 -c 512 --cpuset-cpus 0 --cpuset-mems 0 --memory-reservation 32m --pids-limit 50"
    box.ok("container", "clone", *limits.split(), "--cpu-period", "50000", "--cpu-quota", "25000", "origin", "limited")
    shown = "{{with .HostConfig}}{{.BlkioWeight}} {{.CpuShares}} {{.CpusetCpus}} {{.MemoryReservation}} {{.PidsLimit}} {{.NanoCpus}}{{end}}"
    assert box.ok("inspect", "--format", shown, "limited") == "100 512 0 33554432 50 500000000"
    box.ok("container", "clone", "--name", "named", "origin", "renamed", "busybox")
    shown = "{{.Name}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.MemorySwap}} {{.Config.Hostname}}"
    assert box.ok("inspect", "--format", shown, first) == f"origin-clone 67108864 500000000 -1 {first[:12]}"
    mounts = [json.loads(box.ok("inspect", "--format", "{{json .Mounts}}", name)) for name in ("origin", first, "renamed")]
    assert len({each[0]["Name"] for each in mounts}) == 3
    last = box.ok("container", "clone", "--destroy", "--force", "--run", "origin", "runs")
    assert box.ok("wait", "runs") == "0" and "A=b" in box.ok("logs", last)
    assert box("container", "exists", "origin").returncode == 1
    box.ok("rm", "-v", first, "renamed", "runs", "limited")
    assert len(box.ok("volume", "prune", "-f").split()) == 1  # that of the original, which may hold something


def test_cleanup_removes_what_is_asked(box: Rl) -> None:
    box.ok("create", "--network=none", "--name", "gone", "busybox", "true")
    done = box("container", "cleanup", "--rm", "--rmi", "gone")
    assert done.returncode == 125 and "image is in use by a container" in done.stderr
    assert box("container", "exists", "gone").returncode == 1
    assert "over" in box.ok("ps", "-a", "--format", "{{.Names}}").split()
    assert len(box.ok("container", "cleanup", "--all", "--stopped-only").split()) == 3


def test_a_label_is_run(box: Rl) -> None:
    label = "podman run --rm --network=none --name NAME IMAGE echo"
    archive = box.user.home / "labelled.tar"
    box.user.run("bash", "-c", f"tar -cf {archive} -T /dev/null", check=True)
    box.ok("import", "-q", "-c", f'LABEL run="{label}"', "-c", 'LABEL bad="touch /tmp/x"', str(archive), "labelled")
    shown = box.ok("container", "runlabel", "--display", "-n", "me", "--replace", "run", "labelled", "more")
    assert shown == "command: rl run --replace --rm --network=none --name me localhost/labelled:latest echo more"
    done = box("container", "runlabel", "--quiet", "run", "labelled")
    assert done.returncode == 127 and "echo" in done.stderr  # it ran: the image is empty
    done = box("container", "runlabel", "bad", "labelled")
    assert done.returncode == 125 and "is no command of podman" in done.stderr
    box.ok("rmi", "labelled")


def test_wait_is_told_of_a_removal(box: Rl) -> None:
    box.ok("create", "--network=none", "--name", "brief", "busybox", "true")
    with box.user.popen("rl", "wait", "--condition=removing", "brief", stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout
        eventually(lambda: any("inotify" in str(os.path.realpath(fd)) for fd in Path(f"/proc/{waiting.pid}/fd").iterdir()))
        box.ok("rm", "brief")
        assert waiting.stdout.read() == b"-1\n"


class Lane:
    """`rl` where containers have a cgroup."""

    def __init__(self, rl: Rl, lane: CgroupLane) -> None:
        self._rl, self._lane = rl, lane

    def __call__(self, line: str) -> Done:
        return self._lane.run("rl", *shlex.split(line))

    def states(self) -> dict[str, str]:
        shown = self("ps -a --format '{{.Names}} {{.Status}}' --filter label=lane").stdout
        return dict(line.split(" ", 1) for line in shown.splitlines())


def test_pause(box: Rl) -> None:
    with CgroupLane(box.user) as cgroups:
        lane = Lane(box, cgroups)
        cidfile = box.user.home / "paused.cid"
        cidfile.unlink(missing_ok=True)
        for name in ("p1", "p2"):
            flags = f"--cidfile {cidfile}" if name == "p1" else ""
            assert lane(f"run -d --network=none -l lane --name {name} {flags} busybox sh -c 'while :; do date +%N; done'").stdout
        assert _ID.sub("ID", lane(f"pause --cidfile {cidfile}").stdout) == "ID\n"
        (path,) = [each for each in cgroups.groups() if lane("inspect -f {{.Id}} p1").stdout.strip() in each][:1]
        assert lane.states() | {"p2": ""} == {"p1": "Paused", "p2": ""}
        assert lane("ps --filter status=paused --format {{.Names}}").stdout == "p1\n"
        written = lane("logs p1").stdout
        assert lane("logs p1").stdout == written and path
        for line, code, says in (
            ("pause p1", 125, '"paused" is not running, can\'t pause'),
            ("exec p1 true", 125, "can only create exec sessions on running containers"),
            ("stop p1", 125, "can only stop created or running containers. ID is in state paused"),
            ("start p1", 125, "must be in Created or Stopped state to be started"),
            ("attach p1", 125, "you can only attach to running containers: p1 is paused"),
            ("restart p1", 125, "unable to restart a container in a paused or unknown state"),
            ("rm p1", 2, "cannot remove container ID as it is paused"),
            ("container cleanup p1", 125, "is running or paused, refusing to clean up"),
        ):
            done = lane(line)
            assert done.returncode == code and says in _ID.sub("ID", done.stderr) and "hint: " in done.stderr, done.stderr
        assert lane("wait --condition paused p1").stdout == "-1\n"
        assert lane("unpause p1").stdout == "p1\n" and lane.states()["p1"].startswith("Up ")
        eventually(lambda: lane("logs p1").stdout != written)
        assert len(lane("pause --filter label=lane").stdout.split()) == 2
        assert len(lane("unpause --filter label=lane").stdout.split()) == 2
        assert len(lane("pause --all").stdout.split()) == 2
        assert lane(f"unpause --cidfile {cidfile}").returncode == 0
        assert lane("pause --latest").stderr.startswith('Error: "paused" is not running')
        assert lane("unpause --latest").stdout == lane("ps -l -q --no-trunc").stdout
        assert lane("pause p1 p2").returncode == 0
        assert lane("kill p1").returncode == 0
        eventually(lambda: lane.states()["p1"].startswith("Exited (137)"))
        assert lane("rm -f p2").returncode == 0 and lane("rm p1").returncode == 0


def test_pause_needs_a_cgroup(box: Rl) -> None:
    """Where the tests run there is none; the message says so, and nothing has happened."""
    done = box("pause", "run")
    if box.ok("inspect", "--format", "{{.State.CgroupPath}}", "run"):
        pytest.skip("containers have a cgroup here: nothing to refuse")
    assert done.returncode == 125 and "it has no cgroup, and only a cgroup can be frozen" in done.stderr
    assert "hint: " in done.stderr and box.ok("ps", "--format", "{{.State}}", "--filter", "name=run") == "running"


def test_many_are_stopped_at_once(box: Rl) -> None:
    """They do not hear SIGTERM: one timeout for all of them; then they are removed by a filter, and pruned."""
    for number in range(4):
        box.ok("run", "-d", "--network=none", "-l", "many", "--name", f"many{number}", "busybox", "sleep", "1000")
    done = box("stop", "--filter", "label=many", "--time", "1")
    assert len(done.stdout.split()) == 4 and done.stderr.count("it is killed") == 4
    finished = {box.ok("inspect", "--format", "{{.State.FinishedAt}}", f"many{number}")[:18] for number in range(4)}
    assert len(finished) <= 2  # tenths of minutes, less a border
    assert box.ok("start", "--filter", "name=many0").strip() and box.ok("start", "--latest")
    assert len(box.ok("kill", "--filter", "label=many").split()) == 2
    eventually(lambda: box.ok("ps", "-q", "--filter", "label=many") == "")
    assert len(box.ok("rm", "--filter", "name=many[01]").split()) == 2
    assert len(box.ok("container", "prune", "-f", "--filter", "label=many").split()) == 2
    assert box.user.run("bash", "-c", "echo n | rl container prune").stdout.endswith("[y/N] ")


def test_all_of_them(box: Rl) -> None:
    """Last, for nothing is left afterwards."""
    assert box.ok("kill", "--latest", "--signal", "URG") and box.ok("kill", "--all", "-s", "CONT")
    assert box.ok("stop", "--latest", "--time", "0") and box.ok("stop", "--all", "--time", "0") == ""
    assert len(box.ok("start", "--all").split()) == 4
    assert len(box.ok("rm", "--all", "--force", "--time", "0", "--volumes").split()) == 4
    assert box.containers() == []
    box.ok("create", "--network=none", "busybox", "true")
    assert box.ok("rm", "--latest") and box.containers() == []
