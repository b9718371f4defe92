"""What `rl-runtime spec` and `rl-runtime features` say, held against runc and against what the runtime does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rl.errors import ConflictError, RlError
from rl.kernel import process as kp
from rl.runtime import mountoptions, seccomp, validate
from rl.runtime.program import features, template
from rl.runtime.seccomp import compiler


def runc(*arguments: str, cwd: Path | None = None) -> str:
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    return subprocess.run(["runc", *arguments], cwd=cwd, capture_output=True, text=True, check=True).stdout


def without_versions(document: dict[str, Any]) -> dict[str, Any]:
    """What differs between versions of runc, or is a name."""
    del document["ociVersion"], document["hostname"]
    document["process"]["capabilities"].pop("ambient", None)  # before 1.2
    document["linux"]["maskedPaths"] = [path for path in document["linux"]["maskedPaths"] if "/tpm" not in path]  # from 1.3
    return document


@pytest.mark.parametrize("rootless", [False, True])
def test_the_template_is_that_of_runc(tmp_path: Path, rootless: bool) -> None:
    (tmp_path / "theirs").mkdir()
    runc("spec", *(["--rootless"] if rootless else []), cwd=tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs/config.json").read_text())
    path = template.write(str(tmp_path), rootless)
    assert path == f"{tmp_path}/config.json"
    ours = json.loads(Path(path).read_text())
    validate.check(ours)
    assert without_versions(ours) == without_versions(theirs)
    assert Path(path).read_text().startswith('{\n\t"ociVersion": "1.2.0",\n')


def test_the_template_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(ConflictError, match=r"^File config\.json exists\. Remove it first$"):
        template.write(str(tmp_path), False)
    assert (tmp_path / "config.json").read_text() == "mine"
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("/nonexistent/target")
    with pytest.raises(ConflictError):
        template.write(str(tmp_path), False)


def test_a_template_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RlError, match="No such file or directory"):
        template.write(f"{tmp_path}/missing", False)
    path = tmp_path / "full"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "tmpfs", path], check=True)
    try:
        (path / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(RlError, match="No space left on device"):
            template.write(str(path), False)
        assert os.listdir(path) == ["filler"]
    finally:
        subprocess.run(["umount", path], check=True)


def test_features_know_what_runc_knows() -> None:
    ours, theirs = features.document(), json.loads(runc("features"))
    assert set(theirs["hooks"]) == set(ours["hooks"])
    assert set(theirs["linux"]["namespaces"]) <= set(ours["linux"]["namespaces"])
    assert theirs["linux"]["capabilities"] == ours["linux"]["capabilities"]
    for key in ("actions", "operators", "archs"):
        assert set(theirs["linux"]["seccomp"][key]) <= set(ours["linux"]["seccomp"][key])
    # remount is for runc's own use; access lists go to the file system, which knows them.
    assert set(theirs["mountOptions"]) - set(ours["mountOptions"]) <= {"remount", "acl", "noacl"}


def test_features_keep_their_promises() -> None:
    document = json.loads(json.dumps(features.document()))
    assert document["ociVersionMin"] == "1.0.0" and document["ociVersionMax"] >= "1.2.0"
    for key in ("ociVersionMin", "ociVersionMax"):
        spec = template.document(False, 0, 0)
        spec["ociVersion"] = document[key]
        spec["hooks"] = {kind: [{"path": "/x"}] for kind in document["hooks"]}
        spec["process"]["capabilities"]["bounding"] = document["linux"]["capabilities"]
        validate.check(spec)
        assert validate.warnings(spec) == []
    assert document["mountOptions"] == sorted(set(document["mountOptions"]))
    for option in document["mountOptions"]:
        assert mountoptions.Options([option]).data == [], option
    assert mountoptions.Options(["size=5", "huge"]).data == ["size=5", "huge"]
    filters = document["linux"]["seccomp"]
    for action in filters["actions"]:
        compiler.action_value(action, None, "x")
    for flag in filters["knownFlags"]:
        compiler.flags_of({"flags": [flag]})
    compiler.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": filters["archs"]})


def test_supported_flags_are_those_the_kernel_takes() -> None:
    program = seccomp.program_for({"defaultAction": "SCMP_ACT_ALLOW"})
    assert program is not None
    filters = features.document()["linux"]["seccomp"]
    assert "SECCOMP_FILTER_FLAG_LOG" in filters["supportedFlags"]  # since Linux 4.14
    for name in filters["knownFlags"]:
        flag = compiler.FLAGS[name]
        if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":
            flag |= seccomp.NEW_LISTENER
        child = os.fork()
        if child == 0:
            status = 1
            try:
                kp.prctl(kp.PR_SET_NO_NEW_PRIVS, 1)
                seccomp.install(program, flag)
                status = 0
            finally:
                os._exit(status)
        taken = os.waitpid(child, 0)[1] == 0
        assert taken == (name in filters["supportedFlags"]), name
    assert not kp.knows_seccomp_flags(1 << 20)
