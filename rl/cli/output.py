"""What verbs print: tables as Podman's, JSON, ``--format`` templates.

Imports nothing heavy: `rl ps` is on the hot path (docs/architecture.md, "Start-up rules").
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rl.cli.template import Template

    #: (heading, field) of each column
    Columns = Sequence[tuple[str, str]]


def write(text: str) -> None:
    """Print *text* as it is; bytes that are not UTF-8 (surrogates) come out as they went in."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def complain(error: Any) -> None:
    """Print one of several errors; the verb goes on with the next name."""
    sys.stdout.flush()
    sys.stderr.write(f"Error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))


# --- JSON


def _encoder() -> Callable[[str], str]:
    try:
        from _json import encode_basestring

        encode: Callable[[str], str] = encode_basestring
    except ImportError:
        from json.encoder import encode_basestring as encode
    return encode


def to_json(value: Any, indent: str = "") -> str:
    """*value* as Go's encoding/json writes it: compact, or indented by *indent*; methods are left out."""
    out: list[str] = []
    _encode(value, indent, "\n" if indent else "", _encoder(), out.append)
    return "".join(out)


def _encode(value: Any, indent: str, line: str, quote: Callable[[str], str], put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(quote(value))
    elif value is None:
        put("null")
    elif value is True or value is False:
        put("true" if value else "false")
    elif isinstance(value, (int, float)):
        put(repr(value))
    elif isinstance(value, dict):
        items = [(key, item) for key, item in value.items() if not callable(item)]
        if not items:
            return put("{}")
        inner = line + indent
        comma, colon = "{" + inner, ": " if indent else ":"
        for key, item in items:
            put(comma + quote(str(key)) + colon)
            _encode(item, indent, inner, quote, put)
            comma = "," + inner
        put(line + "}")
    elif isinstance(value, (list, tuple)):
        if not value:
            return put("[]")
        inner = line + indent
        comma = "[" + inner
        for item in value:
            put(comma)
            _encode(item, indent, inner, quote, put)
            comma = "," + inner
        put(line + "]")
    else:
        raise TypeError(f"not a JSON type: {type(value).__name__}")
    return None


# --- tables


def table(rows: Sequence[Sequence[str]], least: int = 12, padding: int = 2) -> str:
    """Rows of cells as lines with aligned columns, as Podman's: at least 12 wide, 2 spaces between."""
    widths: list[int] = []
    for row in rows:
        for at, cell in enumerate(row[:-1]):
            if at == len(widths):
                widths.append(least)
            widths[at] = max(widths[at], len(cell) + padding)
    lines = []
    for row in rows:
        line = "".join([cell.ljust(width) for cell, width in zip(row[:-1], widths)])  # noqa: B905
        lines.append(line + (row[-1] if row else "") + "\n")
    return "".join(lines)


def columns(rows: Sequence[dict[str, Any]], wanted: Columns, heading: bool = True) -> str:
    """The default table of a list verb."""
    lines = [[title for title, _ in wanted]] if heading else []
    lines += [[str(row[field]) for _, field in wanted] for row in rows]
    return table(lines) if lines else ""


def to_file(path: str, text: str) -> None:
    """Write *text* to the file that a flag names. Raises RlError."""
    from rl.errors import RlError

    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RlError(f"write {path}: {error.strerror}", "choose a place you may write to") from None


def print_rows(
    format: str, rows: Sequence[dict[str, Any]], wanted: Columns, heading: bool = True,
    documents: Callable[[], Any] | None = None, indent: str = "  ", headings: Columns = (),
) -> None:
    """Print *rows* as ``--format`` asks: "" or table: *wanted* columns; json: *documents*; else a template per row.

    *headings*: of columns that only a template can ask for, with those of *wanted*.
    """
    if format == "json":
        return write(to_json(documents() if documents else list(rows), indent) + "\n")
    if format in ("", "table"):
        return write(columns(rows, wanted, heading))
    from rl.cli.template import Template
    from rl.cli.template_syntax import TemplateError

    tabular = format.startswith("table ")
    text = _outside_actions(format[6:].strip() if tabular else format, tabular)
    template = Template(text)
    lines = [template.render(row) for row in rows]
    if not tabular:
        return write("".join([line if line.endswith("\n") else line + "\n" for line in lines]))
    if heading:
        try:
            lines.insert(0, template.render(_headings(rows, headings or wanted)))
        except TemplateError:
            pass  # a template that looks into a field has no heading
    return write(table([line.rstrip("\n").split("\t") for line in lines]))


def print_one(format: str, document: dict[str, Any], indent: str = "  ") -> None:
    """Print one *document* as ``--format`` asks: json, or a template, which may use the names of Go's fields."""
    if format in ("", "json"):
        return write(to_json(document, indent) + "\n")
    from rl.cli.template import tagged

    return write(render(format, tagged(document)))


def template(format: str) -> Template:
    """The parsed ``--format`` of a verb that prints row by row."""
    from rl.cli.template import Template

    return Template(_outside_actions(format, False))


def render(format: str, document: Any) -> str:
    """*document* through a ``--format`` template, with the newline Podman adds."""
    from rl.cli.template import Template

    tabular = format.startswith("table ")
    text = Template(_outside_actions(format[6:] if tabular else format, tabular)).render(document)
    if tabular:
        text = table([line.split("\t") for line in text.rstrip("\n").split("\n")])
    return text if text.endswith("\n") else text + "\n"


def _outside_actions(text: str, tabular: bool) -> str:
    """``\\t`` and ``\\n`` written as two characters, and in tables each space, as Podman takes them."""
    out, at = "", 0
    while True:
        start = text.find("{{", at)
        plain = text[at:] if start < 0 else text[at:start]
        plain = plain.replace("\\t", "\t").replace("\\n", "\n")
        out += plain.replace(" ", "\t") if tabular else plain
        if start < 0:
            return out
        end = text.find("}}", start)
        at = len(text) if end < 0 else end + 2
        out += text[start:at]


def _headings(rows: Sequence[dict[str, Any]], wanted: Columns) -> dict[str, Any]:
    """Field → its heading: that of the default table, else the field's words in capitals."""
    found: dict[str, Any] = {}
    for field, value in (rows[0] if rows else {}).items():
        title = _words(field)
        found[field] = (lambda word=title: word.upper()) if callable(value) else title
    found.update({field: title for title, field in wanted})
    return found


def _words(name: str) -> str:
    """``CreatedAt`` → ``CREATED AT``, ``ImageID`` → ``IMAGE ID``."""
    out = ""
    for at, c in enumerate(name):
        before, after = name[at - 1 : at], name[at + 1 : at + 2]
        if at and c.isupper() and (before.islower() or (before.isupper() and after.islower())):
            out += " "
        out += c
    return out.upper()


# --- YAML, of which `rl info` needs very little


def to_yaml(value: Any, depth: int = 0) -> str:
    """*value* as block YAML, as `podman info` prints it: two spaces a level, strings quoted only where they must be."""
    pad = "  " * depth
    if isinstance(value, dict) and value:
        return "".join([f"{pad}{_yaml_scalar(key)}:{_yaml_item(value[key], depth)}" for key in value])
    if isinstance(value, (list, tuple)) and value:
        lines = []
        for item in value:
            nested = isinstance(item, (dict, list, tuple)) and item
            lines.append(f"{pad}- {to_yaml(item, depth + 1).lstrip()}" if nested else f"{pad}- {_yaml_scalar(item)}\n")
        return "".join(lines)
    return f"{pad}{_yaml_scalar(value)}\n"


def _yaml_item(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value:
        return "\n" + to_yaml(value, depth + 1)
    if isinstance(value, (list, tuple)) and value:
        return "\n" + to_yaml(value, depth)
    return f" {_yaml_scalar(value)}\n"


_YAML_WORDS = frozenset(("", "true", "false", "null", "yes", "no", "on", "off", "~", "y", "n"))


def _yaml_scalar(value: Any) -> str:
    if not isinstance(value, str):
        return to_json(value)
    plain = (
        value.lower() not in _YAML_WORDS
        and value[0] not in "-?:,[]{}#&*!|>'\"%@`+. "
        and value[-1] not in " :"
        and ": " not in value
        and " #" not in value
        and value.isprintable()
    )
    return value if plain and not _like_a_number(value) else to_json(value)


def _like_a_number(value: str) -> bool:
    """Whether YAML might read *value* as a number, a date or a time; an id such as 0123abcd is none."""
    return value[0].isdigit() and all(c.isdigit() or c in "xXoObBeE+-_.:TZ " for c in value)
