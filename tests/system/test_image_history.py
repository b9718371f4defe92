"""rl history, on an image that was committed twice on top of busybox."""

from __future__ import annotations

import json

from system.conftest import Rl


def test_history(rl: Rl) -> None:
    base = rl.ok("image", "inspect", "--format", "{{.Id}}", "busybox").strip()
    command = "ENV LONG=" + "x" * 60
    for number in (1, 2):
        source = "busybox" if number == 1 else "made:1"
        rl.ok("run", "--name", "box", source, "touch", f"/file{number}")
        rl.ok("commit", "--quiet", "--change", command, "box", f"made:{number}")
        rl.ok("rm", "box")
    ids = [rl.ok("image", "inspect", "--format", "{{.Id}}", f"made:{number}").strip() for number in (2, 1)]
    steps = json.loads(rl.ok("history", "--format", "json", "made:2"))
    written = json.loads(rl.ok("image", "inspect", "made:2"))[0]["History"]
    assert [step.get("CreatedBy", "") for step in steps] == [one.get("created_by", "") for one in reversed(written)]
    made = [step for step in steps if step["id"] in ids]
    assert list(dict.fromkeys(step["id"] for step in made)) == ids, steps
    assert [step.get("comment") for step in steps] == [one.get("comment") for one in reversed(written)]
    assert made[0]["tags"] == ["localhost/made:2"]
    assert {step["id"] for step in steps} <= {*ids, base, "<missing>"}

    assert rl.ok("image", "history", "-q", "made:2").split() == [step["id"][:12] for step in steps]
    full = rl.ok("history", "--quiet", "--no-trunc", "made:2").split()
    assert full == [step["id"] for step in steps]
    table = rl.ok("history", "made:2").splitlines()
    assert table[0].split() == ["ID", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"] and len(table) == len(steps) + 1
    assert " B" in table[1] and "ago" in table[1]
    exact = rl.ok("history", "--human=false", "--format", "{{.Created}} {{.Size}}", "made:2").splitlines()
    assert exact == [f"{step['created']} {step['size']}" for step in steps]
    assert rl("history", "no-such-image").returncode == 125
    assert rl("history", "-q", "--format", "json", "made:2").returncode == 125
    rl.ok("rmi", "made:2", "made:1")
