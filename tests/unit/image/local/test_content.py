"""The content store: verified or not there, resumable, one writer per blob."""

from __future__ import annotations

import os
import time

import pytest
from image_lab import digest_of

from rl.config.paths import Paths
from rl.errors import NotFoundError, VerificationError
from rl.image.content import ContentStore, Lock, adding

DATA = b"0123456789" * 1000
DIGEST = digest_of(DATA)


def partial(paths: Paths) -> list[str]:
    return os.listdir(f"{paths.content}/partial")


def test_put_and_read(paths: Paths) -> None:
    content = ContentStore(paths)
    assert not content.has(DIGEST)
    assert content.put_bytes(DATA) == DIGEST
    assert content.has(DIGEST) and content.has(DIGEST, len(DATA)) and not content.has(DIGEST, 1)
    assert content.read(DIGEST) == DATA
    assert content.digests() == [DIGEST]
    assert partial(paths) == []
    assert os.path.exists(f"{paths.content}/oci-layout")


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:../../etc/passwd", "sha512:" + "a" * 128, "sha256:" + "A" * 64]
)
def test_a_digest_never_becomes_a_path(paths: Paths, digest: str) -> None:
    with pytest.raises(VerificationError):
        ContentStore(paths).path(digest)


def test_missing(paths: Paths) -> None:
    with pytest.raises(NotFoundError):
        ContentStore(paths).open(DIGEST)


def test_wrong_content_is_refused_and_forgotten(paths: Paths) -> None:
    content = ContentStore(paths)
    with content.writer(DIGEST, len(DATA)) as writer:
        writer.write(b"x" * len(DATA))
        with pytest.raises(VerificationError, match="other content"):
            writer.commit()
    assert not content.has(DIGEST) and partial(paths) == []


def test_more_than_announced_is_refused(paths: Paths) -> None:
    with ContentStore(paths).writer(DIGEST, 5) as writer, pytest.raises(VerificationError, match="larger"):
        writer.write(DATA)
    assert partial(paths) == []


def test_a_broken_download_continues(paths: Paths) -> None:
    content = ContentStore(paths)
    with content.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:3333])
        with pytest.raises(VerificationError, match="3333 bytes instead of"):
            writer.commit()
    with content.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == 3333
        writer.write(DATA[writer.offset :])
        assert writer.commit() == DIGEST
    with content.writer(DIGEST, len(DATA)) as writer:
        assert writer.done


def test_restart_forgets_what_was_there(paths: Paths) -> None:
    content = ContentStore(paths)
    with content.writer(DIGEST) as writer:
        writer.write(b"garbage")
    with content.writer(DIGEST) as writer:
        assert writer.offset == 7
        writer.restart()
        writer.write(DATA)
        writer.commit()
    assert content.read(DIGEST) == DATA


def test_two_writers_of_one_blob(paths: Paths) -> None:
    content = ContentStore(paths)
    first = content.writer(DIGEST, len(DATA))
    child = os.fork()
    if child == 0:
        second = ContentStore(paths).writer(DIGEST, len(DATA))  # waits for the first
        os._exit(0 if second.done and second.commit() == DIGEST else 1)
    time.sleep(0.1)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    first.write(DATA)
    first.commit()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert partial(paths) == []


def test_a_killed_writer_frees_its_blob(paths: Paths) -> None:
    child = os.fork()
    if child == 0:
        writer = ContentStore(paths).writer(DIGEST, len(DATA))
        writer.write(DATA[:100])
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with ContentStore(paths).writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == 100


def test_nameless_content_that_was_not_committed_leaves_nothing(paths: Paths) -> None:
    with ContentStore(paths).writer() as writer:
        writer.write(b"x")
    assert partial(paths) == []


def test_sweep_keeps_what_can_be_resumed(paths: Paths) -> None:
    content = ContentStore(paths)
    with content.writer(DIGEST) as writer:
        writer.write(b"part")
    open(f"{paths.content}/partial/.1.abc", "w").close()  # a killed nameless writer's
    content.sweep_partial(time.time() - 100)
    assert partial(paths) == [DIGEST[7:]]
    content.sweep_partial(time.time() + 100)
    assert partial(paths) == []


def test_locks(paths: Paths) -> None:
    with adding(paths), adding(paths), pytest.raises(BlockingIOError):
        Lock(f"{paths.content}/lock", exclusive=True, wait=False)
    Lock(f"{paths.content}/lock", exclusive=True, wait=False).close()
