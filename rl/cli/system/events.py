"""`rl events`: what happens to containers, images, volumes and the rest, as it happens."""

from __future__ import annotations

import sys

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import Event
    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-f --filter", "array", "KEY=VALUE", "Show only these: container, event, image, label, network, pod, secret, "
     "type, volume"),
    ("--format", "value", "FORMAT", "json (one object per line), or a Go template"),
    ("--no-trunc", "flag", "", "Show ids in full (default true)"),
    ("--since", "value", "TIME", "Begin with the events since then: RFC 3339, seconds since 1970, or 10m ago"),
    ("--stream", "flag", "", "Go on with new events (default true)"),
    ("--until", "value", "TIME", "End with the events of then; 10m is in ten minutes, -10m ten minutes ago"),
)
HELP = "Show what happens to containers, images, volumes and the rest. Without --since and --until: from now on."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.eventstream import events

    show = _shower(options.get("format", ""), options.get("no_trunc", True))
    for event in events(engine, options):
        output.write(show(event) + "\n")
        sys.stdout.flush()
    return 0


def _shower(format: str, full: bool) -> Callable[[Event], str]:
    if not format:
        return lambda event: _line(event, full)
    if format.strip() in ("json", "{{json .}}", "{{ json . }}"):
        return lambda event: output.to_json(_document(event))
    template = output.template(format)
    return lambda event: template.render(_fields(event, full))


def _local(event: Event) -> str:
    from rl.engine.times import go_time

    return go_time(event["Time"])


def _line(event: Event, full: bool) -> str:
    """As Podman tells it."""
    kind, name, identity = event["Type"], event["Name"], event["ID"] if full else event["ID"][:12]
    line = f"{_local(event)} {kind} {event['Status']}"
    if kind in ("container", "pod"):
        details = [f"image={event.get('Image', '')}", f"name={name}"]
        for key, word in (("PodID", "pod_id"), ("HealthStatus", "health_status"), ("Error", "error")):
            if event.get(key):
                details.append(f"{word}={event[key]}")  # type: ignore[literal-required]
        if "ContainerExitCode" in event:
            details.append(f"containerExitCode={event['ContainerExitCode']}")
        details += [f"{key}={value}" for key, value in event.get("Attributes", {}).items()]
        return f"{line} {identity} ({', '.join(details)})"
    if kind == "network":
        return f"{line} {identity} (container={identity}, name={event.get('Network', name)})"
    if kind in ("image", "secret"):
        return f"{line} {identity} {name}"
    return f"{line} {name}".rstrip()


def _document(event: Event) -> dict[str, Any]:
    """The fields of `podman events --format json`: what is empty is left out, the time has the local zone."""
    from rl.engine.times import rfc3339_local

    found: dict[str, Any] = {}
    for key in ("ContainerExitCode", "ID", "Image", "Name", "Network", "Status"):
        value = event.get(key)
        if value not in (None, ""):
            found[key] = value
    found["Time"] = rfc3339_local(event["timeNano"])
    found["timeNano"] = event["timeNano"]
    found["Type"] = event["Type"]
    for key, shown in (("HealthStatus", "health_status"), ("PodID", "PodID"), ("Error", "Error")):
        if event.get(key):
            found[shown] = event[key]  # type: ignore[literal-required]
    found["Attributes"] = event.get("Attributes")
    return found


def _fields(event: Event, full: bool) -> dict[str, Any]:
    """The fields of the template: all of podman-events(1)."""
    attributes = event.get("Attributes") or {}
    return {
        "Attributes": attributes, "ContainerExitCode": event.get("ContainerExitCode", 0),
        "Details": {"ID": event.get("PodID", ""), "PodID": event.get("PodID", ""), "Attributes": attributes},
        "Error": event.get("Error", ""), "HealthStatus": event.get("HealthStatus", ""),
        "ID": event["ID"] if full else event["ID"][:12],
        "Image": event.get("Image", ""), "Name": event["Name"], "Network": event.get("Network", ""),
        "PodID": event.get("PodID", ""), "Status": event["Status"], "Time": _local(event),
        "TimeNano": event["timeNano"], "Type": event["Type"],
        "ToHumanReadable": lambda truncate=False: _line(event, not truncate),
    }
