"""CDI: names, specifications in JSON and YAML, which one counts, what becomes of them in config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl.engine.spec import cdi
from rl.errors import NotFoundError, RlError, UnsupportedError

SPEC = {
    "cdiVersion": "0.6.0", "kind": "example.com/card",
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/card0", "hostPath": "/dev/null"}], "env": ["CARD=0"]}},
        {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/zero"}], "additionalGids": [0, 44]}},
    ],
    "containerEdits": {
        "env": ["COMMON=1"],
        "mounts": [
            {"hostPath": "/etc/hostname", "containerPath": "/opt/a", "options": ["ro"]},
            {"hostPath": "tmpfs", "containerPath": "/opt/t", "type": "tmpfs"},
        ],
        "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true", "x"], "env": [], "timeout": 0}],
    },
}


@pytest.mark.parametrize("text", ["nvidia.com/gpu=0", "nvidia.com/gpu=all", "a/b=c", "vendor.com/net-card=eth0:1", "nvidia.com/gpu=GPU-1:2"])
def test_names(text: str) -> None:
    assert cdi.is_name(text)


@pytest.mark.parametrize("text", ["/dev/null", "/dev/a=b", "nvidia.com=0", "nvidia.com/gpu", "nvidia.com/gpu=", "/gpu=0", "a/b/c=d", "a b/c=d", "-a/b=c"])
def test_no_names(text: str) -> None:
    assert not cdi.is_name(text)


def put(directory: Path, name: str, document: Any) -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return str(directory)


def test_edits(tmp_path: Path) -> None:
    edits = cdi.resolve(["example.com/card=0", "example.com/card=all", "example.com/card=0"], [put(tmp_path, "x.json", SPEC)])
    spec: dict[str, Any] = {"process": {"env": ["A=1"], "user": {"uid": 0}}, "mounts": []}
    edits.apply(spec)
    assert spec["process"]["env"] == ["A=1", "CARD=0", "COMMON=1"]
    assert spec["process"]["user"]["additionalGids"] == [44]
    assert [(m["source"], m["destination"], m["type"]) for m in spec["mounts"]] == [
        ("/etc/hostname", "/opt/a", "bind"), ("tmpfs", "/opt/t", "tmpfs"), ("/dev/null", "/dev/card0", "bind"),
        ("/dev/zero", "/dev/zero", "bind"),
    ]
    assert spec["mounts"][0]["options"] == ["rbind", "ro"] and spec["mounts"][1]["options"] == []
    assert spec["hooks"] == {"createContainer": [{"path": "/bin/true", "args": ["true", "x"]}]}


def test_yaml_and_the_later_directory_counts(tmp_path: Path) -> None:
    text = 'cdiVersion: "0.5.0"\nkind: example.com/card\ndevices:\n- name: "0"\n  containerEdits:\n    env: [CARD=yaml]\n'
    directories = [put(tmp_path / "a", "x.json", SPEC), put(tmp_path / "b", "x.yaml", text), str(tmp_path / "none")]
    assert cdi.resolve(["example.com/card=0"], directories).env == ["CARD=yaml"]
    assert cdi.resolve(["example.com/card=all"], directories).env == ["COMMON=1"]
    assert cdi.gpus(["all", "1"]) == ["nvidia.com/gpu=all", "nvidia.com/gpu=1"]


def with_edits(**edits: Any) -> dict[str, Any]:
    return {"cdiVersion": "1.0.0", "kind": "a/b", "devices": [{"name": "c", "containerEdits": edits}]}


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ("{", NotFoundError, "unresolvable CDI devices a/b=c"),
        ({"cdiVersion": "9.0", "kind": "a/b", "devices": [{"name": "c"}]}, NotFoundError, "unresolvable"),
        ({"cdiVersion": "0.6.0", "kind": "a/other", "devices": [{"name": "c"}]}, NotFoundError, "unresolvable"),
        ([], NotFoundError, "unresolvable"),
        (with_edits(deviceNodes=[{"path": "/dev/no-such"}]), NotFoundError, "/dev/no-such: no such device"),
        (with_edits(deviceNodes=[{}]), RlError, "'path' is missing"),
        (with_edits(mounts=[{"hostPath": "/x"}]), RlError, "'containerPath' is missing"),
        (with_edits(hooks=[{"hookName": "never", "path": "/x"}]), UnsupportedError, "no hook 'never'"),
        (with_edits(intelRdt={"closID": "x"}), UnsupportedError, "intelRdt"),
        (with_edits(netDevices=[{"hostInterfaceName": "x"}]), UnsupportedError, "netDevices"),
    ],
)
def test_refused(tmp_path: Path, document: Any, error: type[RlError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        cdi.resolve(["a/b=c"], [put(tmp_path, "x.json", document)])
    if error is NotFoundError:
        assert caught.value.hint
