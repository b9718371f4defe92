"""The fast reader of option tables (see :mod:`rl.cli`): command lines that are right, in microseconds.

The dialect is that of Podman (Go's pflag): ``--name x``, ``--name=x``, ``-n x``, ``-nx``, ``-n=x``, grouped
short flags (``-it``), a flag that may say its value (``--rm=false``), ``--`` ends the options; a value is taken
as it is, even if it begins with a dash (``--pids-limit -1``).

A table is a tuple of rows ``(names, kind, metavar, help[, check])``:

- *names*: ``"-d --detach"``; the first long name is the key in the result, with underscores, and the only
  one help shows; further long names are silent aliases.
- *kind*: ``flag`` (bool), ``optional`` (``--pull`` means ``--pull=true``, another value needs the =), ``value`` (the
  last one counts), ``array`` (may be repeated, taken as it is),
  ``list`` (may be repeated, each split at commas as CSV).
- *check*: ``int``, ``uint``, ``float`` (the value becomes that type) or the tuple of allowed words.
- *help*: begins with ``!`` for a row that help does not list.

Whatever is not right raises :class:`Refused`; the click reader then says what is wrong.
"""

from __future__ import annotations

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    #: (names, kind, metavar, help[, check])
    Row = tuple[Any, ...]
    Table = Sequence[Row]

#: Flags of `rl` itself; they may stand before the verb and, those without a short name, after it.
GLOBAL: Table = (
    ("--root", "value", "DIR", "Directory of images and containers (default $XDG_DATA_HOME/rl)"),
    ("--runroot", "value", "DIR", "Directory of this boot's state (default $XDG_RUNTIME_DIR/rl)"),
    ("--storage-driver", "value", "NAME", "Storage driver: overlay, fuse-overlayfs or copy (default: the best)"),
    ("--runtime", "value", "PATH", "OCI runtime to use instead of the built-in one: a path, or a name like crun"),
    ("--cgroup-manager", "value", "NAME", "Who makes cgroups: systemd or cgroupfs (default: the best)",
     ("systemd", "cgroupfs")),
    ("--events-backend", "value", "NAME", "Where events are written: file (default), journald or none",
     ("file", "journald", "none")),
    ("--limits", "value", "MODE", "Where a resource limit cannot be applied: warn (default), or strict: fail",
     ("warn", "strict")),
    ("--log-level", "value", "LEVEL", "Messages to show: debug (with tracebacks), info, warn, error (default warn)",
     ("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic")),
)

#: Kinds that take no word after them.
VALUELESS = ("flag", "optional")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Refused(Exception):
    """This reader does not understand the command line, or help was asked for."""


def key_of(names: str) -> str:
    """The key of a row in the result: ``-d --detach-keys`` → ``detach_keys``."""
    for name in names.split(" "):
        if name.startswith("--"):
            return name[2:].replace("-", "_")
    return names[1:]


def boolean(text: str) -> bool:
    """What Go's ParseBool takes. Raises ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'"{text}" is neither true nor false')


def convert(check: Any, text: str) -> Any:
    """*text* as the row's *check* wants it. Raises ValueError with the reason."""
    if not check:
        return text
    if isinstance(check, tuple):
        if text not in check:
            raise ValueError(f'"{text}" is not a valid value. Choose from: "{", ".join(check)}"')
        return text
    try:
        if check == "float":
            number = float(text)
            if number != number or number in (float("inf"), float("-inf")):
                raise ValueError
            return number
        if not text.isascii() or "_" in text or text != text.strip():
            raise ValueError
        whole = int(text, 0) if text.lstrip("+-")[:2].lower() in ("0x", "0b", "0o") else int(text)
    except ValueError:
        raise ValueError(f'"{text}" is not a {"number" if check == "float" else "whole number"}') from None
    if check == "uint" and whole < 0:
        raise ValueError(f'"{text}" is negative')
    return whole


def split_list(text: str) -> list[str]:
    """The fields of one CSV line: commas split, double quotes hold together. Raises ValueError."""
    if '"' not in text:
        return text.split(",")
    fields: list[str] = []
    field = ""
    i, n = 0, len(text)
    while True:
        if i < n and text[i] == '"' and not field:
            i += 1
            while True:
                end = text.find('"', i)
                if end < 0:
                    raise ValueError(f"{text!r} has a quote without its end")
                field += text[i:end]
                i = end + 1
                if text[i : i + 1] != '"':
                    break
                field += '"'
                i += 1
            if i < n and text[i] != ",":
                raise ValueError(f"{text!r} has text after a closing quote")
        else:
            end = text.find(",", i)
            field = text[i:] if end < 0 else text[i:end]
            if '"' in field:
                raise ValueError(f"{text!r} has a quote inside a field")
            i = n if end < 0 else end
        fields.append(field)
        field = ""
        if i >= n:
            return fields
        i += 1


def store(options: dict[str, Any], row: Row, text: str | None) -> None:
    """Put one occurrence of *row* into *options*; *text* None: a flag without a value. Raises ValueError."""
    kind = row[1]
    key = key_of(row[0])
    if kind == "flag":
        options[key] = True if text is None else boolean(text)
        return
    if kind == "optional" and text is None:
        text = "true"
    assert text is not None
    if kind == "list":
        options.setdefault(key, []).extend(split_list(text) if text else [])
    elif kind == "array":
        options.setdefault(key, []).append(text)
    else:
        options[key] = convert(row[4] if len(row) > 4 else None, text)


def read(tables: Sequence[Table], argv: Sequence[str], interspersed: bool = True) -> tuple[dict[str, Any], list[str]]:
    """(options given, arguments) of *argv*, by the rows of all *tables*; the first table wins.

    *interspersed*: options may follow arguments; otherwise everything after the first argument
    belongs to the command in the container. Raises :class:`Refused`.
    """
    index: dict[str, Row] = {}
    for table in tables:
        for row in table:
            for name in row[0].split(" "):
                index.setdefault(name, row)
    options: dict[str, Any] = {}
    arguments: list[str] = []
    i, n = 0, len(argv)
    try:
        while i < n:
            word = argv[i]
            i += 1
            if word == "--":
                arguments += argv[i:]
                break
            if word[:1] != "-" or word == "-":
                arguments.append(word)
                if not interspersed:
                    arguments += argv[i:]
                    break
            elif word[1] == "-":
                name, equals, value = word.partition("=")
                row = index[name]
                if equals:
                    store(options, row, value)
                elif row[1] in VALUELESS:
                    store(options, row, None)
                else:
                    store(options, row, argv[i])
                    i += 1
            else:
                i += _short(index, options, word, argv, i)
    except (KeyError, IndexError, ValueError) as error:
        raise Refused(str(error)) from None
    return options, arguments


def _short(index: dict[str, Row], options: dict[str, Any], word: str, argv: Sequence[str], i: int) -> int:
    """A group of short options; returns how many words after it were taken as a value."""
    at = 1
    while at < len(word):
        row = index["-" + word[at]]
        rest = word[at + 1 :]
        if rest[:1] == "=" and len(rest) > 1:
            store(options, row, rest[1:])
            return 0
        if row[1] in VALUELESS:
            store(options, row, None)
            at += 1
            continue
        if rest:
            store(options, row, rest)
            return 0
        store(options, row, argv[i])
        return 1
    return 0


def check_count(command: str, arguments: Sequence[str], least: int, most: int | None) -> None:
    """Raise UsageError unless the number of *arguments* is what the verb takes."""
    count = len(arguments)
    hint = f"see `{command} --help`"
    if most == 0 and count:
        raise UsageError(f"`{command}` takes no arguments", hint)
    if least == most and count != least:
        raise UsageError(f"accepts {least} arg(s), received {count}", hint)
    if least and most is not None and not least <= count <= most:
        raise UsageError(f"accepts between {least} and {most} arg(s), received {count}", hint)
    if count < least:
        raise UsageError(f"requires at least {least} arg(s), only received {count}", hint)
    if most is not None and count > most:
        raise UsageError(f"accepts at most {most} arg(s), received {count}", hint)
