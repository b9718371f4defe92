"""Pushes to a registry that misbehaves: what is survived and resumed, what is refused, how many bytes go."""

from __future__ import annotations

import json
import os
import random
import re
from typing import Any

import pytest

from rl.engine.context import Engine
from rl.engine.pull import pull
from rl.engine.push import push
from rl.errors import AuthenticationError, RegistryError, RlError, VerificationError
from support.faulty import Faulty
from support.registry import Image, Registry, layer

BIG = layer({"big": random.Random(8).randbytes(3 << 20)})
QUICK: dict[str, Any] = {"retry": 3, "retry_delay": 0.01}


@pytest.fixture(scope="module")
def image(plain: Registry) -> Image:
    return plain.push([BIG], "pushed:1", compress=True)


@pytest.fixture
def stored(engine: Engine, plain: Registry, image: Image) -> str:
    """The image is here, and nothing of it is in the repositories that tests push to."""
    return str(pull(engine, f"{plain.host}/pushed:1")[0]["name"])


def _sent(faulty: Faulty) -> int:
    """Bytes of bodies of PATCH."""
    return sum(int(headers.get("content-length", "0")) for path, headers in faulty.requests if path.startswith("PATCH"))


@pytest.mark.parametrize(("number", "faults"), enumerate([
    [("HEAD .*blobs", "status", 503, 2)],
    [("HEAD .*blobs", "reset", None, 2)],
    [("POST .*uploads", "status", (429, {"Retry-After": "0"}), 2)],
    [("PATCH .*uploads", "status", 503, 2)],
    [("PATCH .*uploads", "reset", None, 2)],
    [("PATCH .*uploads", "partly", 1_000_000, 1)],
    [("PATCH .*uploads", "partly", 1_000_000, 2)],
    [("PATCH .*uploads", "partly", 1, 1)],
    [("PATCH .*uploads", "partly", 0, 1)],
    [("PUT .*uploads", "status", 500, 1)],
    [("PUT .*manifests", "status", 502, 2)],
    [("PUT .*manifests", "reset", None, 1)],
]))
def test_survived(engine: Engine, plain: Registry, image: Image, stored: str, number: int, faults: list[tuple[str, str, Any, int]]) -> None:
    with Faulty(plain) as faulty:
        for fault in faults:
            faulty.add(*fault)
        assert push(engine, stored, f"{faulty.host}/survived-{number}:1", **QUICK) == image.digest
    again = Engine(engine.paths)
    assert pull(again, f"{plain.host}/survived-{number}:1")[0]["id"] == image.id


def test_an_upload_goes_on_where_it_was_cut_off(engine: Engine, plain: Registry, image: Image, stored: str) -> None:
    compressed = sum(item["size"] for item in json.loads(image.manifest)["layers"])
    with Faulty(plain) as faulty:
        faulty.add("PATCH .*uploads", "partly", compressed - 100_000, 1)
        push(engine, stored, f"{faulty.host}/resumed:1", **QUICK)
        patches = [headers for path, headers in faulty.requests if path.startswith("PATCH") and int(headers["content-length"]) > 10_000]
        assert [int(headers["content-length"]) for headers in patches] == [compressed, 100_000]
        assert patches[1]["content-range"] == f"{compressed - 100_000}-{compressed - 1}"


def test_what_is_there_is_not_sent(engine: Engine, plain: Registry, stored: str) -> None:
    with Faulty(plain) as faulty:
        push(engine, stored, f"{faulty.host}/there:1", **QUICK)
        before = _sent(faulty)
        push(engine, stored, f"{faulty.host}/there:2", **QUICK)
        assert _sent(faulty) == before > 0


@pytest.mark.parametrize(("faults", "error", "said"), [
    ([("POST .*uploads", "status", 403, 9)], AuthenticationError, "access denied"),
    ([("POST .*uploads", "status", 405, 9)], RegistryError, "does not take pushes"),
    ([("POST .*uploads", "status", 404, 9)], RegistryError, "does not take pushes"),
    ([("PATCH .*uploads", "status", 413, 9)], RegistryError, "limits the size"),
    ([("PATCH .*uploads", "status", 503, 99)], RegistryError, "503|trouble"),
    ([("PATCH .*uploads", "partly", 0, 99)], RlError, "."),
    ([("POST .*uploads", "headers", {"location": None}, 9)], RegistryError, "does not say where"),
    ([("PUT .*uploads", "headers", {"docker-content-digest": f"sha256:{'0' * 64}"}, 9)], VerificationError, "stored blob"),
    ([("PUT .*manifests", "headers", {"docker-content-digest": f"sha256:{'0' * 64}"}, 9)], VerificationError, "stored the manifest"),
    ([("PUT .*manifests", "status", 400, 9)], RegistryError, "put the manifest"),
    ([("HEAD .*blobs", "status", 418, 9)], RegistryError, "ask"),
])
def test_refused(engine: Engine, plain: Registry, stored: str, faults: list[tuple[str, str, Any, int]], error: type[RlError], said: str) -> None:
    with Faulty(plain) as faulty:
        for fault in faults:
            faulty.add(*fault)
        with pytest.raises(error) as caught:
            push(engine, stored, f"{faulty.host}/refused-{abs(hash(str(faults)))}:1", retry=1, retry_delay=0.01)
        assert re.search(said, f"{caught.value.message} {caught.value.hint}"), caught.value


def test_tokens_that_expire_while_it_uploads(engine: Engine, plain: Registry, image: Image, stored: str) -> None:
    with Faulty(plain, tokens=True, users={"ann": "secret"}) as faulty:
        faulty.token_uses = 1  # each is good for one request
        assert push(engine, stored, f"{faulty.host}/tokens:1", creds="ann:secret", **QUICK) == image.digest
        scopes = {query["scope"][0] for query, _ in faulty.token_requests}
        assert scopes == {"repository:tokens:pull,push"}
        with pytest.raises(AuthenticationError):
            push(engine, stored, f"{faulty.host}/tokens:2", creds="ann:wrong", **QUICK)


def test_nothing_is_left_of_a_push_that_failed(engine: Engine, plain: Registry, stored: str) -> None:
    before = sorted(os.listdir(f"{engine.paths.content}/partial")) if os.path.isdir(f"{engine.paths.content}/partial") else []
    with Faulty(plain) as faulty:
        faulty.add("PATCH .*uploads", "status", 413, 9)
        with pytest.raises(RegistryError):
            push(engine, stored, f"{faulty.host}/left:1", retry=0, retry_delay=0.01)
        assert [path for path, _ in faulty.requests if path.startswith("DELETE")], "the upload was not given up"
    after = sorted(os.listdir(f"{engine.paths.content}/partial")) if os.path.isdir(f"{engine.paths.content}/partial") else []
    assert before == after
