"""The conventions that a machine can check: linters, types, layers, file sizes, what start-up imports."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def tool(name: str) -> str:
    """A program of the environment the tests run in."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed beside {sys.executable}: pip install '.[test]'")
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", ".", "contrib/bench", "contrib/podman-table", "helpers/rl-monitor",
         "helpers/rl-runtime"],
        # A cache for each checkout: one shared by several, with other modules, gives errors that are not there.
        ["mypy", "--cache-dir", f"/tmp/rl-mypy-cache-{zlib.crc32(str(REPO).encode()):08x}"],
        ["lint-imports", "--no-cache"],
    ],
    ids=["ruff", "mypy --strict", "layers"],
)
def test_linters(command: list[str]) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO), "LANG": "C.UTF-8", "HOME": "/tmp"}
    done = subprocess.run([tool(command[0]), *command[1:]], cwd=REPO, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_too_long() -> None:
    files = [path for path in [*REPO.glob("rl/**/*.py"), *REPO.glob("helpers/*")] if path.is_file()]
    counts = {str(path.relative_to(REPO)): len(path.read_text().splitlines()) for path in files}
    long = {name: count for name, count in counts.items() if count > 600}
    assert long == {}


@pytest.mark.parametrize("checklist", ["runtime", "monitor"])
def test_the_checklists_name_tests_that_exist(checklist: str) -> None:
    page = (REPO / f"docs/{checklist}-checklist.md").read_text()
    rows = re.findall(r"^\| .* \| `(\S+)`: (.*) \|$", page, re.MULTILINE)
    assert len(rows) == page.count("\n| ") - page.count("\n## ")  # less a heading each
    for file, names in rows:
        text = (REPO / "tests" / file).read_text()
        for name in re.findall(r"`(test_\w+)`", names):
            assert f"def {name}(" in text, f"{file} has no {name}"


# Each costs milliseconds that the budget of a short command does not have (docs/architecture.md, Start-up rules).
HEAVY = frozenset(
    "click rich typing enum re json dataclasses subprocess socket signal asyncio urllib http yaml pyroute2 pathlib logging "
    "shutil tempfile datetime contextlib argparse inspect ssl threading tomllib email random hashlib".split()
)


@pytest.mark.parametrize(
    "imports",
    [
        "rl.__main__",
        "rl.__main__, rl.cli.parse, rl.cli.verbs, rl.engine.run, rl.engine.launch, rl.cli.container.run, rl.network.files",
        "rl.__main__, rl.cli.container.ps, rl.engine.ps",
        "rl.__main__, rl.cli.container.exec, rl.engine.exec",
        "rl.__main__, rl.cli.container.stop, rl.engine.stop, rl.cli.container.start, rl.engine.start",
        "rl.__main__, rl.cli.image.images, rl.engine.images, rl.engine.inspect, rl.cli.template",
        "rl.runtime.program.main, rl.runtime.program.creating, rl.runtime.program.executing",
        "rl.runtime.program.main, rl.runtime.program.lifecycle",
    ],
    ids=["--version", "run", "ps", "exec", "stop", "images and inspect", "rl-runtime run", "rl-runtime start"],
)
def test_import_budget(imports: str) -> None:
    """-S: what site and the environment's .pth files import is not ours."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name for name in done.stdout.split() if name in HEAVY}
    assert loaded == set()
