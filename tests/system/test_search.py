"""`rl search`: the catalog of a real registry, Docker's index as a server of the tests' own, tags, what goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.registry import Registry, layer
from system.conftest import Rl


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("searched")) as server:
        for name in ("team/web:1", "team/web:2", "team/db:1", "other:1"):
            server.push([layer({"f": name.encode()})], name)
        yield server


class _Index(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = [{"name": "nginx", "description": "A long   description\nof " + "x" * 60, "star_count": 9, "is_official": True, "is_automated": False},
                 {"name": "me/nginx", "description": "", "star_count": 1, "is_official": False, "is_automated": True}, {"nonsense": 1}]
        data = json.dumps({"results": found}).encode() if self.path.startswith("/v1/search?q=nginx") else b"{}" if "v1" in self.path else b"no registry"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


def test_a_catalog(rl: Rl, plain: Registry) -> None:
    names = [line.split()[0] for line in rl.ok("search", f"{plain.host}/team").splitlines()]
    assert names == ["NAME", f"{plain.host}/team/db", f"{plain.host}/team/web"]
    assert rl.ok("search", "--limit", "1", "--format", "{{.Name}}", f"{plain.host}/team") == f"{plain.host}/team/db"
    tags = [line.split() for line in rl.ok("search", "--list-tags", f"{plain.host}/team/web").splitlines()]
    assert tags[0] == ["NAME", "TAG"] and sorted(tags[1:]) == [[f"{plain.host}/team/web", "1"], [f"{plain.host}/team/web", "2"]]
    assert rl.ok("search", f"{plain.host}/nothing") == ""


def test_an_index(rl: Rl, index: str) -> None:
    lines = rl.ok("search", "--compatible", f"{index}/nginx").splitlines()
    assert (lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL", "AUTOMATED"] and lines[1].endswith("...  9           [OK]")) or "..." in lines[1]
    rows = json.loads(rl.ok("search", "--format", "json", "--no-trunc", f"{index}/nginx"))
    assert [(row["Name"], row["Stars"]) for row in rows] == [(f"{index}/nginx", 9), (f"{index}/me/nginx", 1)] and rows[0]["Description"].endswith("x" * 60)
    for words, count in ((["-f", "stars=5"], 1), (["-f", "is-official=false"], 1), (["-f", "is-automated"], 1), (["-f", "is-official,stars=99"], 0)):
        assert len(json.loads(rl.ok("search", "--format", "json", *words, f"{index}/nginx"))) == count
    nonsense = rl("search", f"{index}/other")
    assert nonsense.returncode == 125 and "nonsense" in nonsense.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["nginx"], "no registry is named"), (["127.0.0.1:1/x"], "127.0.0.1:1"), (["-f", "stars=many", "127.0.0.1:1/x"], "not a filter"),
    (["--list-tags", "-f", "stars=1", "127.0.0.1:1/x"], "cannot be combined"), (["--list-tags", "127.0.0.1:1/x"], "127.0.0.1:1"), ([], "accepts 1 arg"),
])
def test_wrong_inputs(rl: Rl, words: list[str], said: str) -> None:
    done = rl("search", *words)
    assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
