"""The files in contrib/completions, in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def shell(tmp_path: Path, name: str, script: str) -> str:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    program = tmp_path / "bin/rl"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom rl.__main__ import main\nmain()\n")
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([name, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash(tmp_path: Path) -> None:
    script = f"""
    compopt() {{ :; }}
    source {ROOT}/contrib/completions/rl.bash
    COMP_WORDS=(rl run --publ); COMP_CWORD=2
    _rl_completion rl
    echo "${{COMPREPLY[*]}}"
    complete -p rl
    """
    out = shell(tmp_path, "bash", script)
    assert "--publish" in out and "_rl_completion" in out


def test_fish(tmp_path: Path) -> None:
    out = shell(tmp_path, "fish", f"source {ROOT}/contrib/completions/rl.fish; complete -C 'rl run --publ'")
    assert "--publish" in out


def test_zsh(tmp_path: Path) -> None:
    script = (
        f"autoload -Uz compinit; compinit -u; fpath=({ROOT}/contrib/completions $fpath); autoload -Uz _rl; whence _rl"
    )
    assert "_rl" in shell(tmp_path, "zsh", script)
