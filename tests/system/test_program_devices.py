"""Device rules of `rl-runtime`: a filter in the container's cgroup for real root, nothing to filter for a user."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import users
from support.bundles import Lab
from support.cgroup_lane import CgroupLane
from system.conftest import eventually

#: /dev/net/tun: opening it takes no capability.
TUN = {"path": "/dev/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}
READ = "(exec 3</dev/tun) && echo readable; (exec 3>/dev/tun) && echo writable; echo > /dev/null && echo null"


def labs(kind: str, with_cgroup: bool) -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="rl-test-oci-", dir="/var/tmp"))
    base.chmod(0o755)
    user = users.ensure("rltest-oci") if kind == "user" else users.root(base / "home")
    try:
        if with_cgroup:
            with CgroupLane(user) as lane:
                yield Lab(user, base, lane)
        else:
            yield Lab(user, base)
    finally:
        shutil.rmtree(base)


def rules(*allowed: dict[str, Any]) -> Any:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"] = [TUN]
        spec["linux"].setdefault("resources", {})["devices"] = [{"allow": False, "access": "rwm"}, *allowed]

    return change


def test_rules_hold_for_root() -> None:
    for lab in labs("root", True):
        done = lab.run(READ, rules())
        assert (done.stdout, done.returncode) == ("null\n", 0) and "Operation not permitted" in done.stderr
        allowed = {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "r"}
        assert lab.run(READ, rules(allowed)).stdout == "readable\nnull\n"
        done = lab.run("true", rules({"allow": True, "type": "c", "major": 5000}))
        assert done.returncode == 1 and "major 5000" in done.stderr
        assert lab.left() == []


def test_rules_can_be_changed() -> None:
    """`update --resources` puts another filter in the place of the first, under the running container."""
    ask = "((exec 3<>/dev/tun) && echo readable || echo refused) > /tmp/"
    for lab in labs("root", True):
        lab.write(f"{ask}1; while [ ! -e /tmp/go ]; do sleep 0.05; done; {ask}2", rules())
        update = lab.base / "update.json"
        update.write_text(json.dumps({"devices": [{"allow": True, "access": "rwm"}]}))
        lab.ok("run", "--detach", "one")
        answers = lab.bundle / "rootfs/tmp"
        eventually(partial(filled, answers / "1"), every=0.02)
        lab.ok("update", "--resources", update, "one")
        (answers / "go").write_text("")
        eventually(partial(filled, answers / "2"), every=0.02)
        lab("delete", "--force", "one")
        assert [(answers / name).read_text() for name in "12"] == ["refused\n", "readable\n"]


def filled(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize("with_cgroup", [True, False])
def test_a_user_needs_no_filter(with_cgroup: bool) -> None:
    for lab in labs("user", with_cgroup):
        done = lab.run("echo > /dev/null && echo null", rules_without_device())
        assert (done.stdout, done.stderr, done.returncode) == ("null\n", "", 0)


def rules_without_device() -> Any:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"].setdefault("resources", {})["devices"] = [{"allow": False, "access": "rwm"}]

    return change
