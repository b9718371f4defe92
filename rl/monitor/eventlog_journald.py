"""Events in the systemd journal, with the fields that Podman's have: `journalctl PODMAN_EVENT=died` finds them.

Called by `rl.monitor.eventlog`; `rl.engine.eventstream` reads them back. They are told apart from Podman's own by
SYSLOG_IDENTIFIER=rl.

Source: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md; the field names are Podman's.
"""

from __future__ import annotations

import _socket

from rl.config.jsonio import dumps
from rl.monitor import logs_journald

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import Event

IDENTIFIER = "rl"
#: (field of the journal, key of the event)
FIELDS = (
    ("PODMAN_TIME", "Time"), ("PODMAN_TYPE", "Type"), ("PODMAN_EVENT", "Status"), ("PODMAN_ID", "ID"),
    ("PODMAN_NAME", "Name"), ("PODMAN_IMAGE", "Image"), ("PODMAN_EXIT_CODE", "ContainerExitCode"),
    ("PODMAN_HEALTH_STATUS", "HealthStatus"), ("PODMAN_NETWORK_NAME", "Network"), ("PODMAN_POD_ID", "PodID"),
    ("ERROR", "Error"),
)  # fmt: skip
#: Attributes, as one JSON object.
LABELS = "PODMAN_LABELS"


def send(event: Event) -> None:
    """Give the journal one event; one that it does not take at once is lost. Raises OSError."""
    details = f"{event['Type']} {event['Status']} {event['ID']} (image={event.get('Image', '')}, name={event['Name']})"
    fields = [("MESSAGE", details), ("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", IDENTIFIER)]
    fields += [(name, str(event[key])) for name, key in FIELDS if key in event]  # type: ignore[literal-required]
    if "Attributes" in event:
        fields.append((LABELS, dumps(event["Attributes"])))
    entry = b"".join([logs_journald.field(name, value) for name, value in fields])
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        sock.connect(logs_journald.SOCKET)
        try:
            sock.send(entry)
        except OSError as error:
            import errno

            if error.errno != errno.EMSGSIZE:
                raise
            logs_journald.send_file(sock, entry)
    finally:
        sock.close()
