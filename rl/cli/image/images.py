"""`rl images`: the table of images."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[IMAGE...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all", "flag", "", "Show intermediate images too"),
    ("--digests", "flag", "", "Show digests"),
    ("-f --filter", "array", "KEY=VALUE", "Show only these: after, before, containers, dangling, digest, id, "
     "intermediate, label, readonly, reference, since, until"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("--history", "flag", "", "Show the names an image has had"),
    ("--no-trunc --notruncate", "flag", "", "Show ids in full"),
    ("-n --noheading", "flag", "", "Print no headings"),
    ("-q --quiet", "flag", "", "Print only ids"),
    ("--sort", "value", "KEY", "Sort by created, id, repository, size or tag (default created)",
     ("created", "id", "repository", "size", "tag")),
)
HELP = "List images."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.images import images, rows

    text = options.get("format", "")
    quiet, full = options.get("quiet"), bool(options.get("no_trunc"))
    if quiet and text:
        raise UsageError("quiet and format are mutually exclusive", "leave one of them out")
    sort = options.get("sort", "created")
    plain = text in ("", "table")
    found = images(
        engine, arguments, filters=options.get("filter"), all=bool(options.get("all")), sort=sort, full=not plain
    )
    if quiet:
        ids = dict.fromkeys(_id(image, full) for image in found)
        output.write("".join([one + "\n" for one in ids]))
        return 0
    shown = [_display(*row, full) for row in rows(found, sort)] if text != "json" else []
    output.print_rows(
        text, shown, _columns(options), not options.get("noheading"), documents=lambda: found, indent="    "
    )
    return 0


def _id(image: dict[str, Any], full: bool) -> str:
    return f"sha256:{image['Id']}" if full else image["Id"][:12]


def _columns(options: dict[str, Any]) -> list[tuple[str, str]]:
    columns = [("REPOSITORY", "Repository"), ("TAG", "Tag")]
    if options.get("digests"):
        columns.append(("DIGEST", "Digest"))
    columns += [("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]
    if options.get("history"):
        columns.append(("HISTORY", "History"))
    return columns


def _display(image: dict[str, Any], repository: str, tag: str, full: bool) -> dict[str, Any]:
    """The fields of Podman's templates for one name of an image."""
    from rl.engine.times import ago, go_time, human_size

    shown = dict(image)
    shown.update(
        ID=_id(image, full), Repository=repository, Tag=tag, Size=human_size(image["Size"], space=" "),
        CreatedSince=ago(image["CreatedAt"]), Created=ago(image["CreatedAt"]), CreatedTime=image["CreatedAt"],
        CreatedAt=lambda: go_time(image["CreatedAt"]), History=", ".join(image["History"] or []) or "<none>",
        VirtualSize=human_size(image["VirtualSize"], space=" "), Labels=image["Labels"] or {},
    )
    return shown
