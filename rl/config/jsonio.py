"""JSON at start-up speed, and records that appear complete or not at all.

``import json`` costs about 7 ms on a small machine (it pulls in ``re``), more than the budget of
``rl ps`` leaves. The scanner and the encoder themselves are C and live in ``_json``; where that
private module is missing or changed, the standard package is used.
"""

from __future__ import annotations

import posix as os  # `os` itself costs a monitor 280 kB of memory; all that is used here is in posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _c_functions() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    class Context:
        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float
        memo: dict[str, str] = {}

    scan = make_scanner(Context())  # type: ignore[arg-type]  # it asks for attributes only

    def fast_loads(text: str) -> Any:
        text = text.strip(" \t\n\r")
        try:
            value, end = scan(text, 0)
        except (StopIteration, SystemError):
            # The scanner takes its exception from json.decoder, and fails oddly when that is not imported.
            import json

            return json.loads(text)  # says what is wrong, and where
        if end != len(text):
            raise ValueError(f"extra data after the JSON document at character {end}")
        return value

    def unserializable(value: object) -> Any:
        raise TypeError(f"not a JSON type: {type(value).__name__}")

    encode = make_encoder(
        None, unserializable, encode_basestring_ascii, None, ": ", ", ", False, False, True
    )

    def fast_dumps(value: Any) -> str:
        return "".join(encode(value, 0))

    if fast_loads(fast_dumps({"a": [1, "é", None, True, 0.5]})) != {"a": [1, "é", None, True, 0.5]}:
        raise ImportError("_json behaves differently here")
    return fast_loads, fast_dumps


def _functions() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    try:
        return _c_functions()
    except (ImportError, TypeError, AttributeError, ValueError):
        import json

        return json.loads, json.dumps


loads, dumps = _functions()


def read_json(path: str) -> Any:
    """The JSON document in file *path*. Raises OSError, or ValueError for a file that is not JSON."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
            if len(chunk) < 1 << 16:
                break  # of a file that is only ever replaced, so this is its end
    finally:
        os.close(fd)
    return loads(b"".join(chunks).decode())


def write_atomic(path: str, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """Replace file *path* by *data*: readers see the old or the new content, never a part.

    *sync* makes the content durable before the name points to it; records that only matter
    until the next boot leave it out.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def write_json(path: str, value: Any, mode: int = 0o600, sync: bool = True) -> None:
    """Replace file *path* by the JSON document *value*, atomically."""
    write_atomic(path, (dumps(value) + "\n").encode(), mode, sync)
