"""Pulls from a registry that misbehaves: what is survived, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rl.engine.context import Engine
from rl.engine.pull import pull
from rl.errors import RegistryError, RlError, UnsupportedError, VerificationError
from rl.image import store
from rl.storage import layers
from support.faulty import Faulty
from support.registry import OCI, Image, Registry, digest_of, layer, make_image

BIG = layer({"big": random.Random(7).randbytes(3 << 20)})


@pytest.fixture(scope="module")
def image(plain: Registry) -> Image:
    return plain.push([BIG], "faults:1", compress=False)


@pytest.fixture
def quick() -> dict[str, Any]:
    return {"retry": 3, "retry_delay": 0.01}


def blob_requests(faulty: Faulty) -> list[dict[str, str]]:
    digest = digest_of(BIG)
    return faulty.asked(f"/blobs/{digest}")


def check(engine: Engine, image: Image) -> None:
    records, errors = store.list_images(engine.paths)
    assert ([record["id"] for record in records], errors) == ([image.id], [])
    assert layers.all_layers(engine.paths) == [image.diff_ids[0][7:]]
    assert Path(engine.paths.blobs, image.diff_ids[0][7:]).read_bytes() == BIG
    assert os.listdir(f"{engine.paths.content}/partial") == []


def nothing_left(engine: Engine) -> None:
    assert store.list_images(engine.paths) == ([], [])
    assert [name for name in os.listdir(engine.paths.layers) if not name.endswith(".lock")] == []


LAYER = f"/blobs/{digest_of(BIG)}"


@pytest.mark.parametrize(
    "faults",
    [
        [("/manifests/", "status", 503, 2)],
        [("/manifests/", "status", (429, {"Retry-After": "0"}), 3)],
        [("/manifests/", "reset", None, 3)],
        [("/blobs/", "status", 500, 3)],
        [("/blobs/", "reset", None, 2)],
        [(LAYER, "cut", 1_200_000, 2)],
        [(LAYER, "cut", 0, 1)],
        [(LAYER, "cut", 1, 3)],
        [(LAYER, "shorten", 500_000, 1)],
        [(LAYER, "cut", 1_000_000, 1), (LAYER, "norange", None, 1)],
        [(LAYER, "cut", 1_000_000, 1), (LAYER, "status", 416, 1)],
    ],
)
def test_survived(
    engine: Engine, plain: Registry, image: Image, quick: dict[str, Any], faults: list[tuple[str, str, Any, int]]
) -> None:
    with Faulty(plain) as faulty:
        for fault in faults:
            faulty.add(*fault)
        pull(engine, f"{faulty.host}/faults:1", **quick)
    check(engine, image)


def test_more_losses_than_retries_are_fine_while_data_comes(engine: Engine, plain: Registry, image: Image) -> None:
    with Faulty(plain) as faulty:
        faulty.add(LAYER, "cut", 1_100_000, 2)
        pull(engine, f"{faulty.host}/faults:1", retry=1, retry_delay=0.01)
        assert [headers.get("range") for headers in blob_requests(faulty)] == [
            None, "bytes=1100000-", "bytes=2200000-"]  # fmt: skip
    check(engine, image)


def test_given_up_and_continued_later(engine: Engine, plain: Registry, image: Image) -> None:
    with Faulty(plain) as faulty:
        faulty.add(LAYER, "cut", 1_000_000, 1)
        with pytest.raises(RegistryError, match=r"ended after 1000000 of|the connection was lost"):
            pull(engine, f"{faulty.host}/faults:1", retry=0)
        nothing_left(engine)
        assert Path(engine.paths.content, "partial", image.diff_ids[0][7:]).stat().st_size == 1_000_000
        pull(engine, f"{faulty.host}/faults:1", retry=0)
        assert blob_requests(faulty)[-1]["range"] == "bytes=1000000-"
    check(engine, image)


def test_bad_partial_is_fetched_anew(engine: Engine, plain: Registry, image: Image) -> None:
    partial = Path(engine.paths.content, "partial")
    partial.mkdir(parents=True)
    (partial / image.diff_ids[0][7:]).write_bytes(b"x" * 1_000_000)
    with Faulty(plain) as faulty:
        pull(engine, f"{faulty.host}/faults:1", retry=0)
        assert [headers.get("range") for headers in blob_requests(faulty)] == ["bytes=1000000-", None]
    check(engine, image)


def test_complete_partial_needs_no_request(engine: Engine, plain: Registry, image: Image) -> None:
    partial = Path(engine.paths.content, "partial")
    partial.mkdir(parents=True)
    (partial / image.diff_ids[0][7:]).write_bytes(BIG)
    with Faulty(plain) as faulty:
        pull(engine, f"{faulty.host}/faults:1")
        assert blob_requests(faulty) == []
    check(engine, image)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ((LAYER, "flip", None, 99), VerificationError, "other content"),
        (("/manifests/", "digest", "sha256:" + "0" * 64, 9), VerificationError, "other content"),
        (("/manifests/", "body", b"<html>Please log in to this hotel</html>", 9), RlError, "is not JSON"),
        (("/manifests/", "body", b"x" * (5 << 20), 9), RegistryError, "larger than"),
        ((LAYER, "status", 404, 99), RegistryError, "does not have it"),
        ((LAYER, "status", 403, 99), RegistryError, "access denied"),
        ((LAYER, "status", (429, {"Retry-After": "86400"}), 1), RegistryError, "429 Too Many Requests"),
        (("/manifests/", "status", 500, 99), RegistryError, "500 Internal Server Error"),
        (("/blobs/", "redirect", "file:///etc/passwd", 99), RegistryError, "redirects to file:"),
    ],
)
def test_refused(
    engine: Engine, plain: Registry, image: Image, quick: dict[str, Any], fault: tuple[str, str, Any, int],
    error: type[RlError], message: str,
) -> None:  # fmt: skip
    with Faulty(plain) as faulty:
        faulty.add(*fault)
        with pytest.raises(error, match=message) as caught:
            pull(engine, f"{faulty.host}/faults:1", **quick)
        assert caught.value.hint
    nothing_left(engine)


def test_no_endless_redirects(engine: Engine, plain: Registry, image: Image) -> None:
    with Faulty(plain) as faulty:
        faulty.add("/manifests/", "redirect", f"http://{faulty.host}/", 99)
        with pytest.raises(RegistryError, match="more than 10 redirects"):
            pull(engine, f"{faulty.host}/faults:1")


def test_schema1(engine: Engine, plain: Registry) -> None:
    plain.push([BIG], "schema:1", compress=False)
    with Faulty(plain) as faulty:
        document = {"schemaVersion": 1, "name": "faults", "fsLayers": [], "history": []}
        faulty.add("/manifests/", "body", json.dumps(document).encode())
        with pytest.raises(UnsupportedError, match="schema 1"):
            pull(engine, f"{faulty.host}/schema:1")


def test_index_that_is_a_manifest_too(engine: Engine) -> None:
    """CVE-2021-41190."""
    from rl.image.registry import _refuse_schema1

    both = json.dumps({"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}).encode()
    with pytest.raises(VerificationError, match="both an index and a manifest"):
        _refuse_schema1(both, "", "x")


def test_redirect_keeps_credentials_at_home(engine: Engine, plain: Registry, image: Image) -> None:
    with Faulty(plain, tokens=True) as front, Faulty(plain) as content:
        front.add("/blobs/", "redirect", f"http://{content.host}/", 99)
        pull(engine, f"{front.host}/faults:1")
        assert front.asked("/blobs/")[-1]["authorization"].startswith("Bearer ")
        assert content.requests
        assert all("authorization" not in headers for _, headers in content.requests)
    check(engine, image)


def test_redirected_download_continues(engine: Engine, plain: Registry, image: Image, quick: dict[str, Any]) -> None:
    with Faulty(plain) as front, Faulty(plain) as content:
        front.add("/blobs/", "redirect", f"http://{content.host}/", 99)
        content.add(LAYER, "cut", 1_000_000, 1)
        pull(engine, f"{front.host}/faults:1", **quick)
        assert content.asked(LAYER)[-1]["range"] == "bytes=1000000-"
    check(engine, image)


def test_killed_pull_is_continued(engine: Engine, plain: Registry, image: Image) -> None:
    with Faulty(plain) as faulty:
        faulty.add(LAYER, "slow", 0.05, 1)
        code = (
            "from rl.engine.context import Engine\nfrom rl.config.paths import Paths\nfrom rl.engine.pull import pull\n"
            f"p = Paths({engine.paths.data!r}, {engine.paths.run!r}, {engine.paths.config!r}, {engine.paths.cache!r})\n"
            f"pull(Engine(p), '{faulty.host}/faults:1')"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        partial = Path(engine.paths.content, "partial", image.diff_ids[0][7:])
        for _ in range(400):
            if partial.exists() and partial.stat().st_size > 500_000:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        nothing_recorded = store.list_images(engine.paths)
        assert nothing_recorded == ([], [])
        kept = partial.stat().st_size
        assert 0 < kept < len(BIG)
        pull(engine, f"{faulty.host}/faults:1")
        assert blob_requests(faulty)[-1]["range"] == f"bytes={kept}-"
    check(engine, image)


def test_memory_does_not_grow_with_the_blob(engine: Engine, plain: Registry) -> None:
    data = layer({"huge": os.urandom(1 << 20) * 150})
    plain.push([data], "huge:1", compress=False)
    code = (
        "import re, resource\nfrom rl.engine.context import Engine\nfrom rl.config.paths import Paths\n"
        f"from rl.engine.pull import pull\np = Paths({engine.paths.data!r}, {engine.paths.run!r},"
        f" {engine.paths.config!r}, {engine.paths.cache!r})\n"
        f"pull(Engine(p), '{plain.host}/huge:1')\n"
        # not ru_maxrss of this process: that one counts what its parent was before exec
        "own = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000  # KiB


FULL = """
import os, sys
from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.engine.pull import pull
from rl.errors import RlError
base, name = sys.argv[1:]
paths = Paths(f"{base}/data", f"{base}/run", f"{base}/config", f"{base}/cache")
paths.ensure()
try:
    pull(Engine(paths), name)
except RlError as error:
    print(error.message, "HINT", error.hint)
print([name for _, _, files in os.walk(f"{base}/data") for name in files if len(name) == 64])
print(os.listdir(paths.layers), [name for name in os.listdir(paths.images) if name != ".lock"])
"""


@pytest.mark.parametrize("size", [2, 5])  # MiB: too small for the blob; for the unpacked layer
def test_full_disk(plain: Registry, image: Image, tmp_path: Path, size: int) -> None:
    command = f"mount -t tmpfs -o size={size}m none {tmp_path} && exec \"$@\""
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command, "sh", sys.executable, "-c", FULL,
         str(tmp_path), f"{plain.host}/faults:1"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert "No space left on device" in done.stdout, done
    assert "HINT free" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["[]", "[] []"]


def test_foreign_layer(engine: Engine, plain: Registry) -> None:
    plain.push([BIG], "foreign:1", compress=False)
    image = make_image([BIG], compress=False)
    with Faulty(plain) as elsewhere, Faulty(plain, tokens=True) as front:
        manifest = json.loads(image.manifest)
        manifest["layers"][0]["mediaType"] = f"{OCI}.layer.nondistributable.v1.tar"
        manifest["layers"][0]["urls"] = ["ftp://127.0.0.1/no", f"http://{elsewhere.host}/v2/foreign{LAYER}"]
        front.add("/manifests/", "body", json.dumps(manifest).encode())
        front.add(LAYER, "status", 404, 99)
        pull(engine, f"{front.host}/foreign:1")
        assert ["authorization" in headers for headers in elsewhere.asked(LAYER)] == [False]
    assert Path(engine.paths.blobs, image.diff_ids[0][7:]).read_bytes() == BIG
