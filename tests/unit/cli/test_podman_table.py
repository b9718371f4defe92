"""docs/podman-commands.md says the truth: nothing that Podman has is unknown here, and the page is what rl's tables say.

The page is about containers, volumes, secrets and the system; the flags of rl's commands for images are held to
Podman's here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rl.cli import dispatch, refused, verbs

REPO = Path(__file__).resolve().parents[3]
IMAGE_COMMANDS = [name for _, names, _ in verbs.VERBS for name in names if name.startswith("image ")]

pytestmark = pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed: ./contrib/host-setup test")


def test_the_page_is_what_the_tables_say() -> None:
    done = subprocess.run([sys.executable, REPO / "contrib/podman-table", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", IMAGE_COMMANDS)
def test_every_flag_for_images_is_known(command: str) -> None:
    shown = subprocess.run(["podman", *command.split(), "--help"], capture_output=True, text=True, check=True).stdout
    options = shown.partition("\nOptions:")[2]
    flags = set(re.findall(r"^ +(?:-[a-zA-Z], )?(--[a-z0-9-]+)", options, re.MULTILINE)) - {"--help"}
    assert flags or command in ("image exists", "image tag", "image trust", "image untag"), "no flag was found in the help"
    module, _ = verbs.find(command.split())
    known = {name for row in dispatch.load(module).OPTIONS for name in row[0].split(" ")}
    known.update(refused.FLAGS.get(command, {}))
    assert sorted(flags - known) == []
