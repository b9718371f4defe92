"""Secrets on disk: one of two creators wins, what is killed leaves nothing wrong, drivers, what --secret means."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rl.config.jsonio import read_json
from rl.config.paths import Paths
from rl.engine import secret_drivers, secrets
from rl.engine.context import Engine
from rl.engine.spec.secrets import parse, uses
from rl.errors import AmbiguousNameError, ConflictError, NoSuchSecretError, RlError, UnsupportedError, UsageError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    return Engine(paths)


def files(engine: Engine) -> list[str]:
    return sorted(str(path.relative_to(engine.paths.secrets)) for path in Path(engine.paths.secrets).rglob("*") if path.is_file())


def test_nobody_else_may_read_it(engine: Engine) -> None:
    old = os.umask(0)
    try:
        secret_id = secrets.create(engine, "key", b"data")
    finally:
        os.umask(old)
    directory = Path(engine.paths.secrets) / secret_id
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(secret_id) == 25 and not secret_id.isdigit()
    assert b"data" not in (directory / "secret.json").read_bytes()


def test_find(engine: Engine) -> None:
    ids = [secrets.create(engine, name, b"x") for name in ("a", "b")]
    assert secrets.find(engine.paths, "a")["id"] == secrets.find(engine.paths, ids[0][:6])["id"] == ids[0]
    for record in (secrets.find(engine.paths, secret_id) for secret_id in ids):
        path = Path(engine.paths.secrets) / record["id"]
        new = path.with_name("77" + record["id"][2:])
        path.rename(new)
        (new / "secret.json").write_text((new / "secret.json").read_text().replace(record["id"], new.name))
    with pytest.raises(AmbiguousNameError, match="77"):
        secrets.find(engine.paths, "77")
    for name in ("", "nope", ids[0]):
        with pytest.raises(NoSuchSecretError):
            secrets.find(engine.paths, name)


def test_replace_and_ignore(engine: Engine) -> None:
    first = secrets.create(engine, "key", b"one")
    with pytest.raises(ConflictError, match="in use"):
        secrets.create(engine, "key", b"two")
    assert secrets.create(engine, "key", b"two", ignore=True) == first
    created = secrets.find(engine.paths, "key")["created"]
    second = secrets.create(engine, "key", b"two", replace=True)
    record = secrets.find(engine.paths, "key")
    assert (record["id"], record["created"], secrets.data_of(engine.paths, record)) == (second, created, b"two")
    assert files(engine) == [f"{second}/data", f"{second}/secret.json"]
    with pytest.raises(UsageError):
        secrets.create(engine, "key", b"x", replace=True, ignore=True)


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "a/b", "x" * 254, "a\0b"])
def test_names_refused(engine: Engine, name: str) -> None:
    with pytest.raises(UsageError, match="not valid"):
        secrets.create(engine, name, b"x")
    assert files(engine) == []


@pytest.mark.parametrize("data", [b"", b"x" * secrets.MAX_SIZE])
def test_sizes_refused(engine: Engine, data: bytes) -> None:
    with pytest.raises(UsageError, match="larger than 0 and less than 512000 bytes"):
        secrets.create(engine, "key", data)


def _create(engine: Engine, number: int, results: Any) -> None:
    try:
        secrets.create(engine, "key", b"%d" % number)
        results.put(number)
    except ConflictError:
        results.put(-1)


def test_of_many_creators_one_wins(engine: Engine) -> None:
    results = FORK.SimpleQueue()
    workers = [FORK.Process(target=_create, args=(engine, number, results)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    won = [number for number in (results.get() for _ in workers) if number >= 0]
    assert len(won) == 1
    assert secrets.data_of(engine.paths, secrets.find(engine.paths, "key")) == b"%d" % won[0]
    assert len(files(engine)) == 2


def test_what_a_killed_create_left_goes(engine: Engine) -> None:
    staging = Path(engine.paths.secrets) / f".{'ab' * 13}.new"
    staging.mkdir()
    (staging / "data").write_bytes(b"x")
    assert secrets.ls(engine) == []
    secrets.create(engine, "key", b"y")
    assert len(files(engine)) == 2


def test_what_a_killed_replace_left_goes(engine: Engine) -> None:
    """Killed between the new record and the removal of the old: the newer counts, and the next command tidies up."""
    old = secrets.create(engine, "key", b"one")
    kept = Path(engine.paths.secrets) / old
    shutil.copytree(kept, kept.with_name("kept"))
    new = secrets.create(engine, "key", b"two", replace=True)
    kept.with_name("kept").rename(kept)
    assert [record["id"] for record in secrets.ls(engine)] == [new]
    assert secrets.data_of(engine.paths, secrets.find(engine.paths, "key")) == b"two"
    assert secrets.rm(engine, ["nope"], ignore=True) == []
    assert files(engine) == [f"{new}/data", f"{new}/secret.json"]


def test_rm(engine: Engine) -> None:
    ids = [secrets.create(engine, name, b"x") for name in ("a", "b", "c")]
    results = secrets.rm(engine, ["a", "nope", ids[1]])
    assert [(name, type(error)) for name, error in results] == [
        (ids[0], type(None)), ("nope", NoSuchSecretError), (ids[1], type(None)),
    ]
    assert secrets.rm(engine, [], all=True) == [(ids[2], None)]
    assert os.listdir(engine.paths.secrets) == [] and os.listdir(engine.paths.trash) == []


def test_filters(engine: Engine) -> None:
    ids = {name: secrets.create(engine, name, b"x") for name in ("db-key", "db-cert", "web")}
    names = [record["name"] for record in secrets.ls(engine, ["name=^db", "name=web$"])]
    assert names == ["db-cert", "db-key", "web"]
    assert [record["name"] for record in secrets.ls(engine, [f"id={ids['web'][:8]}", "name=w"])] == ["web"]
    for text, says in (("label=x", 'invalid filter "label"'), ("name", "not a filter"), ("name=[", "regular expression")):
        with pytest.raises(UsageError, match=says):
            secrets.ls(engine, [text])


def test_shell_driver(engine: Engine, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    commands = {
        "store": f"cat > {store}/$SECRET_ID", "lookup": f"cat {store}/$SECRET_ID", "delete": f"rm {store}/$SECRET_ID",
        "list": f"ls {store}",
    }
    secret_id = secrets.create(engine, "key", b"data\0\xff", driver="shell", options=commands)
    assert (store / secret_id).read_bytes() == b"data\0\xff"
    assert files(engine) == [f"{secret_id}/secret.json"]
    record = secrets.find(engine.paths, "key")
    assert secrets.data_of(engine.paths, record) == b"data\0\xff"
    with pytest.raises(ConflictError):
        secrets.create(engine, "key", b"2", driver="shell", options=commands)
    assert len(list(store.iterdir())) == 1
    secrets.rm(engine, ["key"])
    assert list(store.iterdir()) == []
    with pytest.raises(RlError, match="no room"):
        secrets.create(engine, "k", b"x", driver="shell", options={**commands, "store": "echo no room >&2; exit 3"})
    assert files(engine) == []
    with pytest.raises(UsageError, match="lookup, store"):
        secrets.create(engine, "k", b"x", driver="shell", options={"list": "x", "delete": "x"})


def test_file_driver_elsewhere(engine: Engine, tmp_path: Path) -> None:
    secret_id = secrets.create(engine, "key", b"data", options={"path": str(tmp_path / "elsewhere")})
    path = tmp_path / "elsewhere" / secret_id
    assert path.read_bytes() == b"data" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secrets.inspect(engine, "key")["Spec"]["Driver"]["Options"] == {"path": str(path.parent)}
    path.unlink()
    with pytest.raises(NoSuchSecretError, match="is gone"):
        secrets.data_of(engine.paths, secrets.find(engine.paths, "key"))
    assert secrets.rm(engine, ["key"]) == [(secret_id, None)]
    for driver, options in (("file", {"x": "y"}), ("vault", {}), ("pass", {"x": "y"})):
        with pytest.raises(UsageError):
            secrets.create(engine, "key", b"x", driver=driver, options=options)


def test_pass_driver(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gpg") is None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UnsupportedError, match="gpg"):
            secrets.create(engine, "key", b"x", driver="pass", options={"key": "a"})
        return
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "rl test", "default", "default"], check=True, capture_output=True)
    store = tmp_path / "store"
    store.mkdir()
    options = {"root": str(store), "gpghomedir": str(home)}
    with pytest.raises(UsageError, match="no key"):
        secrets.create(engine, "key", b"x", driver="pass", options=options)
    (store / ".gpg-id").write_text("rl test\n")
    try:
        secret_id = secrets.create(engine, "key", b"data", driver="pass", options=options)
        assert b"data" not in (store / f"{secret_id}.gpg").read_bytes()
        assert secrets.data_of(engine.paths, secrets.find(engine.paths, "key")) == b"data"
        secrets.rm(engine, ["key"])
        assert not (store / f"{secret_id}.gpg").exists()
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_broken_record(engine: Engine) -> None:
    secret_id = secrets.create(engine, "key", b"x")
    path = Path(engine.paths.secrets) / secret_id / "secret.json"
    assert read_json(str(path))["name"] == "key"
    path.write_text("{")
    with pytest.raises(RlError, match=secret_id):
        secrets.ls(engine)


def test_every_driver_is_tested() -> None:
    assert set(secret_drivers._DRIVERS) == {"file", "shell", "pass"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k", ("k", "mount", "/run/secrets/k", 0, 0, 0o444)),
        ("k,type=env", ("k", "env", "k", 0, 0, 0o444)),
        ("k,type=env,target=X", ("k", "env", "X", 0, 0, 0o444)),
        ("source=k,target=a/b,uid=1,gid=2,mode=0400", ("k", "mount", "/run/secrets/a/b", 1, 2, 0o400)),
        ("k,target=//etc/./k,mode=777", ("k", "mount", "/etc/k", 0, 0, 0o777)),
    ],
)
def test_use(text: str, expected: tuple[object, ...]) -> None:
    use = parse(text)
    assert (use["name"], use["type"], use["target"], use["uid"], use["gid"], use["mode"]) == expected


@pytest.mark.parametrize(
    "text",
    ["", "type=env", "k,x=y", "k,type=file", "k,mode=8", "k,mode=99999", "k,uid=x", "k,uid=-1", "k,gid=4294967295", "k,env",
     "k,type=env,uid=1", "k,type=env,target=a=b", "k,target=/", "k,target=..", "k,target=../x", "k,target=."],
)
def test_use_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--secret"):
        parse(text)


def test_one_target_for_one_secret() -> None:
    assert len(uses(["a", "b", "a,type=env", "a,target=c"])) == 4
    with pytest.raises(UsageError, match="/run/secrets/a is given twice"):
        uses(["a", "b,target=a"])
