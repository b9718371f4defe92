"""docs/podman-commands.md says the truth: nothing that Podman has is unknown here, and the page is what rl's tables say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rl.cli import refused

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed: ./contrib/host-setup test")
def test_the_page_is_what_the_tables_say() -> None:
    done = subprocess.run([sys.executable, REPO / "contrib/podman-table", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reason_tells_what_to_do_instead() -> None:
    """The part after the semicolon is the hint of the error."""
    reasons = [*refused.COMMANDS.values(), *(reason for flags in refused.FLAGS.values() for reason in flags.values())]
    assert [reason for reason in reasons if "; " not in reason] == []
