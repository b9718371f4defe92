"""ps, inspect and top on records as create and the monitor leave them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.engine.inspect import inspect
from rl.engine.ps import ps
from rl.engine.selection import chosen, latest
from rl.engine.top import parse_descriptors, top
from rl.engine.volume.create import create as create_volume
from rl.errors import NoSuchContainerError, StateError, UsageError
from rl.image import store
from rl.kernel import process

Make = Callable[..., str]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    return Engine(paths)


@pytest.fixture
def make(engine: Engine) -> Iterator[Make]:
    """A container's records; one with a pid counts as running: its lock is held."""
    held: list[int] = []

    def container(name: str, state: dict[str, Any] | None = None, **config: Any) -> str:
        container_id = config.pop("id", "") or (name.encode().hex() + "0" * 64)[:64]
        directory = engine.paths.container(container_id)
        os.mkdir(directory)
        config = {
            "id": container_id,
            "name": name,
            "created": "2026-01-02T03:04:05.5Z",
            "image": "docker.io/library/nginx:1.2",
            "image_id": "ab" * 32,
            "command": ["/entry", "nginx"],
            "arguments": ["nginx"],
            **config,
        }
        state = {"status": "created", "pid": 0, "started": "", "finished": "", "exit_code": 0, **(state or {})}
        if state["pid"]:
            state.update(pid_start=process.start_time(state["pid"]), boot_id=process.boot_id())
            os.makedirs(engine.paths.container_run(container_id))
            lock = os.open(f"{engine.paths.container_run(container_id)}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(lock, str(os.getpid()).encode())
            held.append(lock)
        Path(directory, "config.json").write_text(json.dumps(config))
        Path(directory, "state.json").write_text(json.dumps(state))
        os.symlink(f"../containers/{container_id}", f"{engine.paths.names}/{name}")
        return container_id

    yield container
    for fd in held:
        os.close(fd)


@pytest.fixture
def sleeper() -> Iterator[int]:
    child = subprocess.Popen(["sleep", "60"])
    yield child.pid
    child.kill()
    child.wait()


EXITED = {"status": "exited", "started": "2026-01-02T03:04:06Z", "finished": "2026-01-02T03:05:06Z", "exit_code": 7}


@pytest.fixture
def three(make: Make, sleeper: int) -> None:
    make(
        "one", created="2026-01-01T00:00:00Z", labels={"tier": "web", "empty": ""}, annotations={"a": "1"},
        restart={"policy": "always", "retries": 0},
    )
    make(
        "two",
        EXITED,
        created="2026-01-02T00:00:00Z",
        image="localhost/app:latest",
        image_id="cd" * 32,
        mounts=[{"type": "volume", "source": "data", "destination": "/data", "options": []}],
        pod="e" * 64, pod_name="pod",
    )
    make(
        "three",
        {"status": "running", "pid": sleeper, "started": "2026-01-03T00:00:01Z", "network": {"mode": "pasta"}},
        created="2026-01-03T00:00:00Z",
        labels={"tier": "db"},
        restart={"policy": "unless-stopped", "retries": 0},
        network={"mode": "container:" + (b"one".hex() + "0" * 64)[:64]},
        command=["sleep", "5"], arguments=[],
    )


def names(rows: list[dict[str, Any]]) -> str:
    return " ".join(row["Names"][0] for row in rows)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], "one two three"),
        (["name=o"], "one two"),
        (["name=^t"], "two three"),
        (["name=one", "name=two"], "one two"),
        (["status=exited"], "two"),
        (["status=created", "status=running"], "one three"),
        (["exited=7"], "two"),
        (["exited=0"], ""),
        (["label=tier"], "one three"),
        (["label=tier=db"], "three"),
        (["label=tier=*"], "one three"),
        (["label!=tier"], "two"),
        (["label=tier", "label=empty"], "one"),
        (["ancestor=^docker.*nginx"], "one three"),
        (["ancestor=nginx:1.2"], "one three"),
        (["ancestor=nginx:9"], ""),
        (["ancestor=cdcdcd"], "two"),
        (["before=two"], "one"),
        (["since=two"], "three"),
        (["volume=data"], "two"),
        (["volume=/data"], "two"),
        (["network=pasta"], "three"),
        (["until=2026-01-02T12:00:00Z"], "one two"),
        (["name=one", "status=exited"], ""),
        (["id=" + b"two".hex()], "two"),
        (["id=^" + b"two".hex()], "two"),
        (["id=f" * 30], ""),
        (["name=/one"], "one"),
        (["label!=tier=db"], "one two"),
        (["label!=tier=db", "label!=tier=web"], "two"),
        (["annotation=a"], "one"),
        (["annotation!=a=1"], "two three"),
        (["before=two", "before=three"], "one"),
        (["since=one", "since=three"], "two three"),
        (["volume=data:/data"], "two"),
        (["volume=data:/else"], ""),
        (["ancestor=^docker.*nginx"], "one three"),
        (["pod=pod"], "two"),
        (["pod=eee"], "two"),
        (["pod=none"], ""),
        (["command=^nginx$"], "one two"),
        (["command=sleep"], "three"),
        (["network=container:one"], "three"),
        (["network=container:nobody"], ""),
        (["restart-policy=always"], "one"),
        (["restart-policy=no"], "two"),
        (["restart-policy=none", "restart-policy=unless-stopped"], "two three"),
        (["should-start-on-boot=true"], "one three"),
        (["health=none"], "one two three"),
        (["health=healthy"], ""),
        (["status=stopped"], "two"),
    ],
    ids=str,
)
def test_filters(engine: Engine, three: None, filters: list[str], found: str) -> None:
    assert names(ps(engine, all=True, filters=filters)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense=1", "nonsense is an invalid filter"),
        ("status", 'invalid filter "status"'),
        ("status=happy", "unknown container state: happy: invalid argument"),
        ("exited=many", 'exited code out of range: "many" is not a number'),
        ("until=whenever", 'failed to parse value as time or duration: "whenever"'),
        ("name=(", "filter '(' is not a regular expression: missing ), unterminated subpattern at position 0"),
        ("=x", " is an invalid filter"),
        ("restart-policy=often", "often invalid restart policy"),
        ("health=fine", "fine is not a health status"),
        ("should-start-on-boot=perhaps", "filter should-start-on-boot: 'perhaps' is neither true nor false"),
    ],
)
def test_bad_filters(engine: Engine, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ps(engine, filters=[text])
    assert (caught.value.message, bool(caught.value.hint)) == (message, text != "name=(" and "perhaps" not in text)


def test_filters_read_no_more_than_they_need(engine: Engine, three: None) -> None:
    """`rl ps` looks at no record of a container that does not run, `--filter name=` at none that it does not fit."""
    two = Path(engine.paths.container((b"two".hex() + "0" * 64)[:64]))
    for file in ("config.json", "state.json"):
        (two / file).write_text("nonsense")
    warnings: list[str] = []
    engine.warn = warnings.append
    assert names(ps(engine)) == names(ps(engine, filters=["status=running"])) == "three"
    assert names(ps(engine, all=True, filters=["name=one"])) == "one"
    assert chosen(engine, ["id=" + b"one".hex()]) == [(b"one".hex() + "0" * 64)[:64]]
    assert warnings == []
    assert names(ps(engine, sync=True)) == "three" and "container two" in warnings[0]


def test_ancestors_are_images_that_others_were_built_on(
    engine: Engine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("one", layers=["base", "app"])
    layers = {"base": ["base"], "app": ["base", "app"], "empty": []}
    monkeypatch.setattr(store, "find", lambda paths, name: {"layers": layers[name]})
    assert [names(ps(engine, all=True, filters=[f"ancestor={name}"])) for name in layers] == ["one", "", ""]


def test_a_health_filter_reads_what_the_last_probe_said(engine: Engine, make: Make) -> None:
    for name, text in (("good", '{"status": "healthy", "failing_streak": 0, "log": []}'), ("new", "")):
        directory = engine.paths.container(make(name, health={"test": ["CMD", "true"]}))
        if text:
            Path(directory, "health.json").write_text(text)
    assert [names(ps(engine, all=True, filters=[f"health={each}"])) for each in ("healthy", "starting")] == ["good", "new"]


def test_which_are_shown(engine: Engine, three: None) -> None:
    assert names(ps(engine)) == "three"
    assert names(ps(engine, last=2)) == "two three"
    assert names(ps(engine, latest=True)) == "three"
    assert names(ps(engine, filters=["status=exited"])) == "two"
    assert names(ps(engine, all=True, sort="names")) == "one three two"
    assert names(ps(engine, all=True, sort="status")) == "one two three"
    assert latest(engine) == ps(engine, latest=True)[0]["Id"]
    with pytest.raises(NoSuchContainerError):
        ps(engine, filters=["before=nobody"])


def test_a_row(engine: Engine, three: None, sleeper: int) -> None:
    one, two, three_ = ps(engine, all=True, namespaces=True, size=True)
    assert (one["Status"], one["StartedAt"], one["Exited"], one["Labels"]) == (
        "Created",
        -62135596800,
        False,
        {"tier": "web", "empty": ""},
    )
    assert two["Status"].startswith("Exited (7) ") and two["Status"].endswith(" ago")
    assert (two["Exited"], two["ExitCode"], two["ExitedAt"], two["Mounts"]) == (True, 7, 1767323106, ["/data"])
    assert three_["Status"].startswith("Up ") and three_["Pid"] == sleeper and three_["Networks"] == ["pasta"]
    assert three_["Namespaces"]["Pidns"].isdigit() and three_["Command"] == []
    assert all(row["Size"] == {"rootFsSize": 0, "rwSize": 0} for row in (one, two, three_))


def test_sizes_count_hard_links_once(engine: Engine, make: Make) -> None:
    upper = Path(engine.paths.container(make("big")), "upper/dir")
    upper.mkdir(parents=True)
    (upper / "file").write_bytes(b"x" * 1000)
    os.link(upper / "file", upper / "again")
    (upper / "other").write_bytes(b"x" * 24)
    assert ps(engine, all=True, size=True)[0]["Size"] == {"rootFsSize": 1024, "rwSize": 1024}


def test_damaged_records_are_told_and_left_out(engine: Engine, three: None) -> None:
    warnings: list[str] = []
    engine.warn = warnings.append
    Path(engine.paths.container((b"two".hex() + "0" * 64)[:64]), "config.json").write_text("nonsense")
    assert names(ps(engine, all=True)) == "one three"
    assert len(warnings) == 1 and "container two" in warnings[0]


def test_inspect(engine: Engine, make: Make) -> None:
    ports = [{"host_ip": "127.0.0.1", "host_port": 8080, "container_port": 80, "range": 2, "protocol": "tcp"}]
    mounts = [
        {"type": "bind", "source": "/src", "destination": "/dst", "options": ["rbind", "ro", "rslave"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": ["size=1m"]},
    ]
    container_id = make(
        "web",
        EXITED,
        network={"mode": "default", "ports": ports},
        mounts=mounts,
        cap_drop=["chown"],
        image_config={"ExposedPorts": {"443/tcp": {}}},
        stop_signal=37,
        ulimits=["nofile=10:20"],
        devices=["/dev/null:/dev/x:r"],
        limits={"memory": {"limit": 1 << 20}, "pids": {"limit": 5}},
    )
    documents, errors = inspect(engine, ["web", "nobody", container_id[:8]])
    assert [document["Id"] for document in documents] == [container_id] * 2
    assert [error.message for error in errors] == ['no such object: "nobody"']
    document = documents[0]
    assert document["State"]["ExitCode"] == 7 and not document["State"]["Running"]
    assert (document["Path"], document["Args"]) == ("/entry", ["nginx"])
    assert document["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "443/tcp": None,
    }
    assert document["Mounts"] == [
        {
            "Type": "bind",
            "Source": "/src",
            "Destination": "/dst",
            "Driver": "",
            "Mode": "",
            "Options": ["rbind"],
            "RW": False,
            "Propagation": "rslave",
        }
    ]
    host = document["HostConfig"]
    assert host["Binds"] == ["/src:/dst:ro,rbind,rslave"] and host["Tmpfs"] == {"/t": "size=1m"}
    assert (host["CapDrop"], host["Memory"], host["PidsLimit"]) == (["CAP_CHOWN"], 1 << 20, 5)
    assert host["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]
    assert host["Ulimits"] == [{"Name": "RLIMIT_NOFILE", "Soft": 10, "Hard": 20}]
    assert "CAP_CHOWN" not in document["BoundingCaps"] and document["Config"]["StopSignal"] == "SIGRTMIN+3"
    with pytest.raises(UsageError):
        inspect(engine, ["web"], "pod")


def test_inspect_volume(engine: Engine, make: Make) -> None:
    create_volume(engine, "data")
    documents, errors = inspect(engine, ["data"])
    assert documents[0]["Mountpoint"] == f"{engine.paths.volumes}/data/_data" and not errors
    assert inspect(engine, ["../names"], "volume")[1]
    assert inspect(engine, [".."])[1]


def test_top(engine: Engine, make: Make, sleeper: int) -> None:
    make("up", {"status": "running", "pid": sleeper, "started": "2026-01-03T00:00:01Z"})
    headings, rows = top(engine, "up", ["hpid,comm", "args", "state", "ppid"])
    assert headings == ["HPID", "COMMAND", "COMMAND", "STATE", "PPID"]
    assert rows == [[str(sleeper), "sleep", "sleep 60", "S", str(os.getpid())]]
    headings, rows = top(engine, "up")
    assert headings == ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]
    assert rows[0][1] == str(sleeper) and rows[0][-1] == "sleep 60"
    _, rows = top(
        engine,
        "up",
        [*(parse_descriptors(["args"]) or []), "capeff", "user", "huser", "etime", "label", "stime"],
    )
    assert len(rows) == 1


def test_top_needs_a_running_container(engine: Engine, make: Make) -> None:
    make("down", EXITED)
    with pytest.raises(StateError):
        top(engine, "down")
    for words in (["nonsense"], ["-ef"], ["pid,-o"]):
        assert parse_descriptors(words) is None
        with pytest.raises(StateError):
            top(engine, "down", words)
