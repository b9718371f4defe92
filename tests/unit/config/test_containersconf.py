"""containers.conf: which files count, what is kept of them, when they are read again, what is wrong in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl.config import containersconf
from rl.errors import RlError


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    monkeypatch.setattr(containersconf, "_last", None)
    return tmp_path / "containers.conf"


def test_parsed_once_and_again_when_it_changes(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    assert containersconf.load(run) == {}  # no file
    conf.write_text("[engine]\nevents_logger = 'none'\n[other]\nx = 1\n")
    assert containersconf.load(run) == {"engine.events_logger": "none"}
    monkeypatch.setattr(containersconf, "_last", None)  # another process
    monkeypatch.setattr(containersconf, "parse", lambda files: pytest.fail("parsed again"))
    assert containersconf.load(run) == {"engine.events_logger": "none"}
    monkeypatch.undo()
    monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    conf.write_text("[engine]\nevents_logger = 'file'\n# another size\n")
    assert containersconf.load(run) == {"engine.events_logger": "file"}
    (tmp_path / "containers-conf.json").write_text("{torn")
    monkeypatch.setattr(containersconf, "_last", None)
    assert containersconf.load(run) == {"engine.events_logger": "file"}


def test_a_later_file_wins(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf.write_text("[containers]\nlog_driver = 'none'\nlog_size_max = 9000\n")
    (tmp_path / "more.conf").write_text("[containers]\nlog_driver = 'k8s-file'\n")
    monkeypatch.setenv("CONTAINERS_CONF_OVERRIDE", str(tmp_path / "more.conf"))
    assert containersconf.load(str(tmp_path)) == {"containers.log_driver": "k8s-file", "containers.log_size_max": 9000}
    monkeypatch.delenv("CONTAINERS_CONF")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    drop_ins = tmp_path / "config/containers/containers.conf.d"
    drop_ins.mkdir(parents=True)
    for name in ("b.conf", "a.conf", "c.txt"):
        (drop_ins / name).touch()
    own = [os.path.basename(path) for path in containersconf.config_files() if str(tmp_path) in path]
    assert own == ["containers.conf", "a.conf", "b.conf", "more.conf"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine", "containers.conf"),
        ("[engine]\ncgroup_manager = 'openrc'\n", r"cgroup_manager in \[engine\]: 'openrc' is not known"),
        ("[containers]\ncgroups = 1\n", "cgroups"),
        ("[containers]\nlog_size_max = true\n", "log_size_max in .containers. must be a int"),
        ("[containers]\nno_hosts = 'yes'\n", "no_hosts in .containers. must be a bool"),
        ("[engine]\nevents_logfile_max_size = 1.5\n", "must be a str or int"),
    ],
)
def test_what_is_wrong_is_told(conf: Path, tmp_path: Path, text: str, said: str) -> None:
    conf.write_text(text)
    with pytest.raises(RlError, match=said):
        containersconf.load(str(tmp_path))


def test_a_file_of_comments_needs_no_parser(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf.write_text("# all of it\n[containers]\n#log_driver = 'none'\n\n")
    monkeypatch.setitem(__import__("sys").modules, "tomllib", None)
    assert containersconf.load(str(tmp_path)) == {}
