"""The fast JSON functions against the standard library's, and records that appear complete or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rl.config import jsonio

GOOD = ["null", "true", "-1.5e3", '"a\\u00e9\\ud83d\\ude00\\n"', "[]", "{}", ' {"a": [1, {"b": null}], "": "x"}\n', "1" * 20]
BAD = ["", "{", "[1,]", '{"a"}', "nul", '"', "[1] 2", "{'a': 1}", '"\x01"', "\ufeff{}"]


@pytest.mark.parametrize("text", GOOD)
def test_same_values_as_the_standard_library(text: str) -> None:
    value = jsonio.loads(text)
    assert value == json.loads(text)
    assert json.loads(jsonio.dumps(value)) == value


@pytest.mark.parametrize("text", BAD)
def test_bad_documents_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        jsonio.loads(text)


@pytest.mark.parametrize("text", BAD)
def test_bad_documents_without_the_json_package_loaded(text: str) -> None:
    """The C scanner alone answers SystemError when json.decoder was never imported."""
    code = "import sys; from rl.config import jsonio\n"
    code += "try: jsonio.loads(sys.argv[1])\nexcept ValueError: print('value error')"
    root = str(Path(jsonio.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, env={"PYTHONPATH": root})
    assert done.stdout == "value error\n", done.stderr


def test_only_json_types_are_written() -> None:
    with pytest.raises(TypeError):
        jsonio.dumps({"a": b"bytes"})


def test_write_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    jsonio.write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        jsonio.write_json(str(path), {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(OSError):
        jsonio.write_atomic(str(tmp_path / "missing" / "x"), b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
    assert path.stat().st_mode & 0o777 == 0o600
