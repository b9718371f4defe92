"""Writing to a repository of a registry: blobs in one go or from where they were cut off, manifests.

Called by rl.image.push. A blob is asked for first (HEAD), then mounted from another repository of the same registry
where that is known to have it, and sent only then. An upload is one PATCH with all of the blob and a PUT that
closes it: the form that every registry takes and the one that can be continued.

Source: OCI distribution specification, "Pushing blobs", "Pushing a blob in chunks", "Mounting a blob from another
repository", "Pushing manifests".
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import BinaryIO
from urllib.parse import quote

from rl.errors import AuthenticationError, RegistryError, VerificationError
from rl.image.transport import AbortedError, InterruptedTransferError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.image.registry import Repository
    from rl.image.transport import Body, Response

    ReadAt = Callable[[int, int], bytes]  # number of bytes, position

#: How often one upload goes on after a lost connection without having come further.
_STALLS = 3


class Uploads:
    """What a push does to one repository; any number of threads may use it at once."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._scope = f"repository:{repository.name}:pull,push"

    def _ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Body | None = None,
        repeat: bool = True,
    ) -> Response:
        registry = self.repository.registry
        return registry.request(path, self._scope, headers, method=method, body=body, repeat=repeat)

    def _failure(self, doing: str, response: Response) -> RegistryError:
        """The error for an answer to a push, with what helps against it."""
        error = self.repository.failure(doing, response)
        if response.status == 413:
            error.hint = "the registry, or a proxy before it, limits the size of a request: its operator can raise it"
        elif response.status in (404, 405) and not isinstance(error, AuthenticationError):
            error.hint = "the registry does not take pushes there: check the name, or whether it is a read-only mirror"
        return error

    def exists(self, digest: str) -> bool:
        """Whether the repository has the blob."""
        with self._ask("HEAD", f"{self.repository.path}/blobs/{digest}") as response:
            if response.status not in (200, 404):
                raise self._failure(f"ask {self.repository} for blob {digest}", response)
            return response.status == 200

    def blob(
        self, digest: str, size: int, read: ReadAt, sources: list[str], on_progress: Callable[[int], None]
    ) -> bool:
        """Bring a blob there; False where that took no bytes (a mount).

        *read* gives up to so many bytes of it from a position on; *sources* are repositories of the registry that may
        have it; *on_progress* is told how many bytes are read. Raises AuthenticationError, RegistryError,
        VerificationError.
        """
        for source in sources[:3]:  # a registry that can mount it says so at once
            location = self._begin(f"?mount={digest}&from={quote(source, safe='/')}")
            if not location:
                return False
            self._cancel(location)
        location = self._begin("")
        try:
            location = self._send(location, digest, size, read, on_progress)
            self._finish(location, digest)
        except BaseException:
            with suppress(RegistryError):
                self._cancel(location)
            raise
        return True

    def _begin(self, query: str) -> str:
        """The URL of a new upload; "" where the registry mounted the blob instead."""
        path = f"{self.repository.path}/blobs/uploads/{query}"
        with self._ask("POST", path, body=b"") as response:
            if response.status == 201 and query:
                return ""
            if response.status != 202:
                raise self._failure(f"begin an upload to {self.repository}", response)
            return self._next(response, path)

    def _next(self, response: Response, path: str) -> str:
        location = response.header("location")
        if not location:
            raise RegistryError(f"{self.repository.registry.host} does not say where an upload goes on")
        return self.repository.registry.resolve(location, path)

    def _send(
        self, location: str, digest: str, size: int, read: ReadAt, on_progress: Callable[[int], None]
    ) -> str:
        """All bytes of the blob; the URL that closes the upload."""
        offset, stalls = 0, 0
        while True:
            headers = {"Content-Length": str(size - offset), "Content-Type": "application/octet-stream"}
            if offset:  # without it a registry appends, which all of them do alike
                headers["Content-Range"] = f"{offset}-{size - 1}"
            start = offset

            def counted(at: int = start) -> BinaryIO:
                return _Counted(read, at, on_progress)  # type: ignore[return-value]

            try:
                with self._ask("PATCH", location, headers, counted, False) as answer:
                    if answer.status in (202, 204):
                        return self._next(answer, location)
                    if answer.status not in (416, 429, 500, 502, 503, 504):
                        raise self._failure(f"upload blob {digest} to {self.repository}", answer)
                    problem = self._failure(f"upload blob {digest} to {self.repository}", answer)
            except AbortedError:
                raise
            except InterruptedTransferError as error:
                problem = error
            location, offset = self._where(location, problem)
            stalls = 0 if offset > start else stalls + 1
            if offset > size or stalls > _STALLS:
                raise problem
            self.repository.registry.transport.pause(stalls, f"{problem.message}; {offset} of {size} bytes are there")

    def _where(self, location: str, problem: RegistryError) -> tuple[str, int]:
        """Where an upload that was cut off goes on, and the number of bytes that arrived."""
        with self._ask("GET", location) as response:
            if response.status == 404:
                return self._begin(""), 0
            if response.status != 204:
                raise problem
            last = response.header("range").rpartition("-")[2]
            found = self.repository.registry.resolve(response.header("location") or location, location)
        if last.isdigit() and int(last) > 0:
            return found, int(last) + 1
        self._cancel(found)  # "0-0": one byte, or none, as registries say of that, too
        return self._begin(""), 0

    def _finish(self, location: str, digest: str) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe='')}"
        with self._ask("PUT", url, body=b"") as response:
            if response.status not in (201, 204):
                raise self._failure(f"finish the upload of blob {digest} to {self.repository}", response)
            told = response.header("docker-content-digest")
        if told and told != digest:
            raise VerificationError(
                f"{self.repository.registry.host} stored blob {digest} as {told}", "it is broken, or what is before it"
            )

    def _cancel(self, location: str) -> None:
        """Give an upload up, as far as the registry lets us."""
        self._ask("DELETE", location, repeat=False).close()

    def manifest(self, data: bytes, media_type: str, which: str) -> str:
        """Put a manifest or an index under a tag or its digest; the digest. Its blobs must be there."""
        digest = f"sha256:{sha256(data).hexdigest()}"
        path = f"{self.repository.path}/manifests/{which}"
        with self._ask("PUT", path, {"Content-Type": media_type}, data) as response:
            if response.status not in (201, 202):
                raise self._failure(f"put the manifest of {self.repository}:{which}", response)
            told = response.header("docker-content-digest")
        if told and told != digest:
            raise VerificationError(
                f"{self.repository.registry.host} stored the manifest {digest} as {told}",
                "the registry changes what it is given: it is broken",
            )
        return digest


class _Counted:
    """What http.client takes for a file: a position of its own in the blob, told to who asked how far it is."""

    def __init__(self, read: ReadAt, at: int, tell: Callable[[int], None]) -> None:
        self._read, self._at, self._tell = read, at, tell

    def read(self, size: int) -> bytes:
        data = self._read(size, self._at)
        self._at += len(data)
        self._tell(self._at)
        return data

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # the blob is its owner's
