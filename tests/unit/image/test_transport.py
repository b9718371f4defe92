"""Proxies, client certificates, Retry-After, lost connections: below the registry protocol."""

from __future__ import annotations

import http.server
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from rl.engine.context import Engine
from rl.engine.pull import pull
from rl.errors import AuthenticationError, RegistryError, UsageError
from rl.image import proxies
from rl.image.certificates import Certificates
from rl.image.transport import AbortedError, InterruptedTransferError, Transport, retry_after
from support.faulty import Faulty
from support.registry import Registry, layer, make_certificate

HELLO = layer({"hello": b"hello\n"})

NO_PROXY = [
    ("r.io", 443, "", False), ("r.io", 443, "*", True), ("r.io", 443, "r.io", True), ("a.r.io", 443, "r.io", True),
    ("ar.io", 443, "r.io", False), ("r.io", 443, ".r.io", False), ("a.r.io", 443, ".r.io", True),
    ("a.r.io", 443, "*.r.io", True), ("R.io", 443, "x, r.IO", True), ("r.io", 443, "r.io:443", True),
    ("r.io", 443, "r.io:80", False), ("10.1.2.3", 443, "10.0.0.0/8", True), ("11.1.2.3", 443, "10.0.0.0/8", False),
    ("10.1.2.3", 443, "10.1.2.3", True), ("fd00::1", 443, "fd00::/8", True), ("fd00::1", 443, "[fd00::1]:443", True),
    ("127.0.0.1", 443, "", True), ("localhost", 443, "", True), ("::1", 443, "", True), ("r.io", 443, "1.2.3/x", False),
]  # fmt: skip


@pytest.mark.parametrize(("host", "port", "rules", "direct"), NO_PROXY)
def test_no_proxy(host: str, port: int, rules: str, direct: bool) -> None:
    environ = {"https_proxy": "http://p:3128", "no_proxy": rules}
    assert (proxies.proxy_for("https", host, port, environ) is None) == direct


def test_proxy_variables() -> None:
    found = proxies.proxy_for("https", "r.io", 443, {"HTTPS_PROXY": "p.io:3128", "http_proxy": "http://other:1"})
    assert found
    assert (found.address, found.headers) == ("p.io:3128", {})
    found = proxies.proxy_for("http", "r.io", 80, {"http_proxy": "http://me:p%40ss@p.io"})
    assert found
    assert found.address == "p.io:80"
    assert found.headers == {"Proxy-Authorization": "Basic bWU6cEBzcw=="}
    assert proxies.proxy_for("http", "r.io", 80, {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}) is None
    for value in ("socks5://p:1", "http://", "http://p:port"):
        with pytest.raises(UsageError, match="not a proxy"):
            proxies.proxy_for("https", "r.io", 443, {"https_proxy": value})


class Proxy(threading.Thread):
    """A forward proxy that sends everything to one port of this machine, and notes what it was asked."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self.target = port
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line + (" with authorization" if b"Proxy-Authorization" in head else ""))
        server = socket.create_connection(("127.0.0.1", self.target))
        if line.startswith("CONNECT"):
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            server.sendall(head)
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    client.close()
                    server.close()
                    return
                (server if ready is client else client).sendall(data)


def test_https_through_a_proxy(engine: Engine, secure: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    image = secure.push([HELLO], "proxied:1")
    proxy = Proxy(secure.port)
    monkeypatch.setenv("https_proxy", f"http://me:pw@{proxy.address}")
    (record,) = pull(engine, "registry.invalid/proxied:1", creds="ann:secret", tls_verify=False)
    assert record["id"] == image.id
    assert set(proxy.asked) == {"CONNECT registry.invalid:443 HTTP/1.1 with authorization"} or set(proxy.asked) == {
        "CONNECT registry.invalid:443 HTTP/1.0 with authorization"
    }


def test_http_through_a_proxy(engine: Engine, plain: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    image = plain.push([HELLO], "proxied:1")
    proxy = Proxy(plain.port)
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    monkeypatch.setenv("https_proxy", f"http://{proxy.address}")
    (record,) = pull(engine, "registry.invalid/proxied:1", tls_verify=False)
    assert record["id"] == image.id
    assert "GET http://registry.invalid/v2/proxied/manifests/1 HTTP/1.1" in proxy.asked
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(RegistryError, match=r"through the proxy 127\.0\.0\.1:1"):
        pull(engine, "registry.invalid/proxied:1")


# client certificates


@pytest.fixture
def strict_server(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """(host, certificate, key) of a server that wants to see exactly that certificate from its clients."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", certificate, key
    server.shutdown()
    server.server_close()


def test_client_certificate(engine: Engine, strict_server: tuple[str, Path, Path]) -> None:
    host, certificate, key = strict_server
    directory = Path(engine.paths.config, "certs.d", host)
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(certificate.read_bytes())
    with pytest.raises((AuthenticationError, InterruptedTransferError)):
        Transport(Certificates(engine.paths), retries=0).request("GET", f"https://{host}/", {})
    (directory / "client.cert").write_bytes(certificate.read_bytes())
    (directory / "client.key").write_bytes(key.read_bytes())
    with Transport(Certificates(engine.paths)).request("GET", f"https://{host}/", {}) as response:
        assert response.read(10) == b"ok"
    subprocess.run(
        ["openssl", "pkey", "-aes128", "-passout", "pass:x", "-in", str(key), "-out", str(directory / "client.key")],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(RegistryError, match="key is encrypted"):
        Transport(Certificates(engine.paths)).request("GET", f"https://{host}/", {})


# time


def test_retry_after() -> None:
    assert retry_after("7") == 7
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    for value in ("", "soon", "-1", formatdate(0, usegmt=True)):
        assert retry_after(value) == 0


def test_retry_after_is_waited_for(engine: Engine, plain: Registry) -> None:
    said: list[str] = []
    with Faulty(plain) as faulty:
        faulty.add("/v2/", "status", (429, {"Retry-After": "1"}), 1)
        transport = Transport(Certificates(engine.paths), delay=0.001, on_retry=said.append)
        began = time.monotonic()
        transport.request("GET", f"http://{faulty.host}/v2/", {}).close()
        assert 1 <= time.monotonic() - began < 5
    assert "429 Too Many Requests" in said[0]


def test_connections_are_kept(engine: Engine, plain: Registry) -> None:
    transport = Transport(Certificates(engine.paths))
    for _ in range(5):
        with transport.request("GET", f"http://{plain.host}/v2/", {}) as response:
            response.read(1000)
    assert sum(len(idle) for idle in transport._idle.values()) == 1


def test_connection_closed_while_idle(engine: Engine, tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        transport = Transport(Certificates(engine.paths), retries=0)
        for _ in range(2):
            with transport.request("GET", f"http://{registry.host}/v2/", {}) as response:
                assert response.status == 200
                response.read(1000)
            registry.stop()
            registry.start()
            assert registry._answers()


def test_abort_ends_transfers_at_once(engine: Engine, plain: Registry) -> None:
    data = layer({"big": b"x" * 1_000_000})
    image = plain.push([data], "abort:1", compress=False)
    with Faulty(plain) as faulty:
        faulty.add("/blobs/", "slow", 5)
        transport = Transport(Certificates(engine.paths))
        threading.Timer(0.3, transport.abort).start()
        began = time.monotonic()
        url = f"http://{faulty.host}/v2/abort/blobs/{image.diff_ids[0]}"
        with pytest.raises(AbortedError), transport.request("GET", url, {}) as response:
            response.read(2_000_000)
        assert time.monotonic() - began < 4
        with pytest.raises(AbortedError):
            transport.request("GET", url, {})
