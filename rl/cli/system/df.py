"""`rl system df`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-v --verbose", "flag", "", "Show each image, container and volume"),
)
HELP = """Show what images, containers and volumes take on the disk, and how much of it nothing uses.

An image is its unpacked layers and the compressed blobs they came from, which are kept for save and push.
"""
_SUMMARY = (("TYPE", "Type"), ("TOTAL", "Total"), ("ACTIVE", "Active"), ("SIZE", "Size"),
            ("RECLAIMABLE", "Reclaimable"))  # fmt: skip
_IMAGES = (("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ImageID"), ("CREATED", "Created"),
           ("SIZE", "Size"), ("SHARED SIZE", "SharedSize"), ("UNIQUE SIZE", "UniqueSize"),
           ("CONTAINERS", "Containers"))  # fmt: skip
_CONTAINERS = (("CONTAINER ID", "ContainerID"), ("IMAGE", "Image"), ("COMMAND", "Command"),
               ("LOCAL VOLUMES", "LocalVolumes"), ("SIZE", "Size"), ("CREATED", "Created"), ("STATUS", "Status"),
               ("NAMES", "Names"))  # fmt: skip
_VOLUMES = (("VOLUME NAME", "VolumeName"), ("LINKS", "Links"), ("SIZE", "Size"))


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.disk_usage import df

    if options.get("format") and options.get("verbose"):
        raise UsageError("cannot combine --format and --verbose flags", "leave one of them out")
    found = df(engine)
    if options.get("verbose"):
        output.write("Images space usage:\n\n" + output.columns(_image_rows(found["Images"]), _IMAGES))
        rows = _container_rows(found["Containers"])
        output.write("\nContainers space usage:\n\n" + output.columns(rows, _CONTAINERS))
        output.write("\nLocal Volumes space usage:\n\n" + output.columns(_volume_rows(found["Volumes"]), _VOLUMES))
        return 0
    rows = [_summary_row(row) for row in found["Summary"]]
    documents = [{**row, "TotalCount": row["Total"]} for row in rows]
    output.print_rows(options.get("format", ""), rows, _SUMMARY, documents=lambda: documents, indent="    ")
    return 0


def _summary_row(row: dict[str, Any]) -> dict[str, Any]:
    size, reclaimable = row["RawSize"], row["RawReclaimable"]
    percent = int(reclaimable / size * 100 + 0.5) if size else 0
    return {**row, "Size": _size(size), "Reclaimable": f"{_size(reclaimable)} ({percent}%)"}


def _size(size: int) -> str:
    from rl.engine.times import human_size

    return human_size(size, 4)


def _since(text: str) -> str:
    import time

    from rl.engine.images import parse_time
    from rl.engine.times import human_duration

    return human_duration(time.time() - parse_time(text)[0])


def _image_rows(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from rl.engine.images import split

    rows = []
    for image in images:
        shown = {**image, "ImageID": image["ImageID"][:12], "Created": _since(image["Created"])}
        shown.update({key: _size(image[key]) for key in ("Size", "SharedSize", "UniqueSize")})
        for name in image["Names"] or ["<none>:<none>"]:
            repository, colon, tag = split(name)
            rows.append({**shown, "Repository": repository, "Tag": tag if colon else "<none>"})
    return rows


def _container_rows(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**one, "ContainerID": one["ContainerID"][:12], "Image": one["Image"][:12],
         "Command": " ".join(one["Command"] or []), "Size": _size(one["RWSize"]), "Created": _since(one["Created"])}
        for one in containers
    ]  # fmt: skip


def _volume_rows(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "Size": _size(one["Size"])} for one in volumes]
