"""Blobs into the content store: several at once, hashed while they arrive, continued where they broke off.

Memory is constant: each thread has one buffer, whatever the size of a blob. What is there of a blob when a
download ends (or its process is killed) stays as a partial file; the next one asks for the rest (Range).

Called by rl.image.pull.
"""

from __future__ import annotations

import queue
import threading
from urllib.parse import urlsplit

from rl.errors import RegistryError, RlError, VerificationError
from rl.image.transport import AbortedError, InterruptedTransferError, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.image.content import ContentStore, Writer
    from rl.image.registry import Repository

BUFFER = 256 << 10
#: A connection that breaks again and again is fine as long as each one brings this much.
_PROGRESS = 1 << 20
_JOIN_SECONDS = 5.0


class Download:
    """One blob to fetch; ``done`` counts the bytes that are here, read by who shows progress."""

    __slots__ = ("digest", "done", "error", "size", "urls")

    def __init__(self, descriptor: dict[str, Any]) -> None:
        self.digest: str = descriptor["digest"]
        self.size: int = descriptor["size"]
        self.urls = foreign_urls(descriptor)
        self.done = 0
        self.error: BaseException | None = None


def foreign_urls(descriptor: dict[str, Any]) -> list[str]:
    """Where a non-distributable layer is: its descriptor's ``urls``, http and https only."""
    kind = descriptor.get("mediaType") or ""
    if "nondistributable" not in kind and "foreign" not in kind:
        return []
    urls = descriptor.get("urls") or []
    if not isinstance(urls, list):
        return []
    return [url for url in urls if isinstance(url, str) and urlsplit(url).scheme in ("http", "https")]


def fetch(repository: Repository, content: ContentStore, item: Download) -> None:
    """Bring one blob into the content store, verified. Raises VerificationError, RegistryError, RlError."""
    content.path(item.digest)  # refuses what is no sha256 digest
    if content.has(item.digest) and not content.has(item.digest, item.size):
        raise VerificationError(
            f"blob {item.digest} has {content.size(item.digest)} bytes, but its manifest announces {item.size}",
            "the image is broken: ask who made it",
        )
    for last in (False, True):
        with content.writer(item.digest, item.size) as writer:
            resumed = writer.offset > 0
            item.done = writer.offset
            if writer.done:
                return
            try:
                _fill(repository, writer, item)
                writer.commit()
                return
            except VerificationError:
                # What an earlier, killed download left may be bad: once more, from the start.
                if last or not resumed:
                    raise


def _fill(repository: Repository, writer: Writer, item: Download) -> None:
    transport = repository.registry.transport
    buffer = bytearray(BUFFER)
    attempt = 0
    while writer.offset < item.size:
        before = writer.offset
        response = _open(repository, writer, item)
        try:
            with response:
                _receive(response, writer, item, buffer)
        except InterruptedTransferError as error:
            attempt = 0 if writer.offset - before >= _PROGRESS else attempt + 1
            if attempt > transport.retries:
                raise
            transport.pause(max(attempt - 1, 0), error.message)


def _receive(response: Response, writer: Writer, item: Download, buffer: bytearray) -> None:
    view = memoryview(buffer)
    while count := response.readinto(buffer):
        writer.write(view[:count])
        item.done = writer.offset
    if writer.offset < item.size:
        raise InterruptedTransferError(
            f"get blob {item.digest} from {urlsplit(response.url).netloc}: it ended after {writer.offset} of"
            f" {item.size} bytes",
            "try again: what arrived is kept",
        )


def _open(repository: Repository, writer: Writer, item: Download) -> Response:
    """An answer that continues at the writer's offset, or starts over with an emptied writer."""
    problem: RegistryError | None = None
    for url in item.urls:
        try:
            headers = {"Range": f"bytes={writer.offset}-"} if writer.offset else {}
            response = repository.registry.transport.request("GET", url, headers)
            if _usable(response, writer):
                return response
            problem = repository.failure(f"get layer {item.digest} from {url}", response)
            response.close()
        except AbortedError:
            raise
        except RegistryError as error:
            problem = error
    response = repository.blob(item.digest, writer.offset)
    if response.status == 416 and writer.offset:
        response.close()
        writer.restart()
        response = repository.blob(item.digest)
    if _usable(response, writer):
        return response
    with response:
        if response.status == 404 and not problem:
            raise RegistryError(
                f"get blob {item.digest} of {repository}: the registry does not have it",
                "the image is incomplete there: push it again",
            )
        raise problem or repository.failure(f"get blob {item.digest} of {repository}", response)


def _usable(response: Response, writer: Writer) -> bool:
    if response.status == 200:
        if writer.offset:
            writer.restart()  # it does not know Range
        return True
    if response.status != 206 or not writer.offset:
        return False
    first = response.header("content-range").partition("bytes ")[2].partition("-")[0]
    return first == str(writer.offset)


class Downloads:
    """Several blobs at once, on threads; a context manager. Make it after the last fork.

    :meth:`next` hands out what is complete, in the order of completion. Leaving the context early ends
    the transfers.
    """

    def __init__(self, repository: Repository, content: ContentStore, items: list[Download], jobs: int) -> None:
        self._repository = repository
        self._content = content
        self._todo: queue.SimpleQueue[Download] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Download] = queue.SimpleQueue()
        # The largest first: what is begun last should be short.
        for item in sorted(items, key=lambda item: -item.size):
            self._todo.put(item)
        self.pending = len(items)
        self._threads = [
            threading.Thread(target=self._work, name=f"download-{number}", daemon=True)
            for number in range(min(jobs, len(items)))
        ]

    def __enter__(self) -> Downloads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.pending:
            self._repository.registry.transport.abort()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def next(self, seconds: float) -> Download | None:
        """The next complete blob, or None when *seconds* pass without one. Raises what its download met."""
        try:
            item = self._finished.get(timeout=seconds)
        except queue.Empty:
            return None
        if item.error is None:
            self.pending -= 1
            return item
        if isinstance(item.error, RlError):
            raise item.error
        raise RlError(f"get blob {item.digest}: {type(item.error).__name__}: {item.error}") from item.error

    def _work(self) -> None:
        while True:
            try:
                item = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                fetch(self._repository, self._content, item)
            except BaseException as error:
                item.error = error
            self._finished.put(item)
            if item.error is not None:
                return
