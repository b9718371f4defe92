"""A registry that misbehaves on request: it fronts a real one and spoils some of its answers.

    with Faulty(registry) as faulty:
        faulty.add("/blobs/", "cut", 1000, times=2)     # the first two blob answers end after 1000 bytes
        … pull from faulty.host …
        faulty.requests                                 # what was asked: (path, headers)
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.registry import Registry


@dataclass
class Fault:
    """What to do to answers of paths that match; ``times`` counts down."""

    pattern: str
    action: str  # status cut flip shorten reset redirect norange wrongrange slow digest body
    value: Any
    times: int


class Faulty:
    """A context manager; *tokens* makes it ask for Bearer tokens of its own token server."""

    def __init__(self, upstream: Registry, *, tokens: bool = False, users: Mapping[str, str] | None = None) -> None:
        self.upstream = upstream
        self.tokens = tokens
        self.users = dict(users or {})
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.token_requests: list[tuple[dict[str, list[str]], str]] = []
        self.issued: dict[str, int] = {}  # token → how many requests it is still good for
        self.token_uses = 1 << 30
        self.moved: dict[str, str] = {}  # of an upload that was cut off: where docker-registry says that it goes on
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def add(self, pattern: str, action: str, value: Any = None, times: int = 1) -> None:
        self._faults.append(Fault(pattern, action, value, times))

    def take(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests whose path contains *part*."""
        return [headers for path, headers in self.requests if part in path]

    def __enter__(self) -> Faulty:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(faulty: Faulty) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            if self.path.startswith("/v2/"):
                return self._write()
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            return self._token(parse_qs(body))

        def do_HEAD(self) -> None:
            self._write()

        def do_PATCH(self) -> None:
            self._write()

        def do_PUT(self) -> None:
            self._write()

        def do_DELETE(self) -> None:
            self._write()

        def _write(self) -> None:
            """What a push does. Patterns of faults see ``METHOD PATH``; *partly* lets the first bytes of a body arrive."""
            what = f"{self.command} {self.path}"
            with faulty._lock:
                faulty.requests.append((what, {name.lower(): value for name, value in self.headers.items()}))
            if faulty.tokens and not self._authorized():
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                return
            fault = faulty.take(what)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if fault and fault.action != "partly" and fault.action != "headers" and self._instead(fault):
                return
            if fault and fault.action == "partly":
                body = body[: fault.value]
            headers = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "content-range")}
            headers.update({"Host": faulty.host, "Content-Length": str(len(body))})
            connection = http.client.HTTPConnection("127.0.0.1", faulty.upstream.port, timeout=20)
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault and fault.action == "partly":
                # docker-registry has the offset in the URL, and knows an older URL no more; others do.
                faulty.moved[self.path] = (answer.getheader("Location") or self.path).partition(faulty.host)[2] or self.path
                self._instead(Fault("", "reset", None, 1))
                return
            kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() in ("location", "range", "docker-upload-uuid", "docker-content-digest")}
            if fault and fault.action == "headers":
                kept.update(fault.value)
            self.send_response(answer.status)
            for name, text in kept.items():
                if text is not None:
                    self.send_header(name, text)
            self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self) -> None:
            with faulty._lock:
                faulty.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            if self.path.startswith("/token"):
                fault = faulty.take(self.path)
                if fault and self._instead(fault):
                    return
                self._token(parse_qs(urlsplit(self.path).query))
            elif not faulty.tokens or self._authorized():
                self._forward()

        def _authorized(self) -> bool:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            with faulty._lock:
                left = faulty.issued.get(token, 0)
                if left:
                    faulty.issued[token] = left - 1
                    return True
            repository = self.path.removeprefix("/v2/").partition("/manifests")[0].partition("/blobs")[0]
            scope = f',scope="repository:{repository}:pull,push"' if repository else ""
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}', {
                "WWW-Authenticate": f'Bearer realm="http://{faulty.host}/token",service="test, service"{scope}',
            })
            return False

        def _token(self, query: dict[str, list[str]]) -> None:
            sent = self.headers.get("Authorization") or ""
            faulty.token_requests.append((query, sent))
            if faulty.users:
                pair = base64.b64decode(sent.removeprefix("Basic ")).decode().partition(":")
                known = faulty.users.get(pair[0]) == pair[2] or query.get("refresh_token") == ["identity"]
                if not known:
                    return self._answer(401, b'{"details":"incorrect username or password"}')
            token = secrets.token_urlsafe()
            faulty.issued[token] = faulty.token_uses
            return self._answer(200, json.dumps({"token": token, "expires_in": 300}).encode())

        def _forward(self) -> None:
            fault = faulty.take(self.path)
            if fault and self._instead(fault):
                return
            headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": faulty.host}
            if self.headers.get("Range") and not (fault and fault.action == "norange"):
                headers["Range"] = self.headers["Range"]
            connection = http.client.HTTPConnection("127.0.0.1", faulty.upstream.port, timeout=20)
            connection.request("GET", faulty.moved.get(self.path, self.path), headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            kept = {
                name: value for name, value in answer.getheaders()
                if name.lower() in ("content-type", "docker-content-digest", "content-range", "link", "location", "range")
            }
            self._spoil(fault, answer.status, body, kept)

        def _instead(self, fault: Fault) -> bool:
            if fault.action == "status":
                status, headers = fault.value if isinstance(fault.value, tuple) else (fault.value, {})
                self._answer(status, b"<html>in trouble</html>", headers)
            elif fault.action == "redirect":
                self._answer(307, b"", {"Location": fault.value + (self.path if fault.value.endswith("/") else "")})
            elif fault.action == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            else:
                return False
            return True

        def _spoil(self, fault: Fault | None, status: int, body: bytes, headers: dict[str, str]) -> None:
            action = fault.action if fault else ""
            value = fault.value if fault else None
            if action == "flip":
                body = body[:-1] + bytes([body[-1] ^ 1])
            elif action == "shorten":
                body = body[:value]
            elif action == "digest":
                headers["Docker-Content-Digest"] = value
            elif action == "body":
                body = value
                headers.pop("Docker-Content-Digest", None)
            elif action == "wrongrange" and status == 206:
                headers["Content-Range"] = f"bytes 0-{len(body) - 1}/{len(body)}"
            if action == "cut":
                self._answer(status, body, headers, send=body[:value])
                self.close_connection = True
            elif action == "slow":
                self._answer(status, body, headers, send=b"")
                for at in range(0, len(body), 64 << 10):
                    self.wfile.write(body[at : at + (64 << 10)])
                    time.sleep(value)
            else:
                self._answer(status, body, headers)

        def _answer(
            self, status: int, body: bytes, headers: Mapping[str, str] | None = None, send: bytes | None = None
        ) -> None:
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body if send is None else send)
            except OSError:
                self.close_connection = True

    return Handler
