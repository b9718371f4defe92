"""The records on disk, as types. Imported only while type checking: it costs nothing at run time.

Every record is a plain JSON object. What was asked (:class:`ContainerConfig`) never changes after
`create`; where it stands (:class:`ContainerState`) is rewritten atomically by the one process that
holds the container's lock.
"""

from __future__ import annotations

from typing import Any, TypedDict

#: (first id inside, first id outside, count), one line of /proc/PID/uid_map
IdRange = tuple[int, int, int]


class PortMapping(TypedDict):
    """One published range: ``host_ip`` "" means every address; ``range`` ports from both numbers on."""

    host_ip: str
    host_port: int
    container_port: int
    range: int
    protocol: str  # tcp | udp


class MountSpec(TypedDict, total=False):
    """One requested mount, whatever flag asked for it."""

    type: str  # bind | volume | tmpfs | ramfs | devpts | image
    source: str  # host path, volume name, or image as asked
    destination: str
    options: list[str]
    anonymous: bool  # a volume made for an image's VOLUME or `-v /path`
    no_copy: bool
    overlay: bool  # option O: what is written goes to a directory of the container's own
    upper: str  # … or to this one, which stays
    work: str
    id_map: dict[str, list[list[int]]]  # option idmap, see rl.engine.spec.id_mount; {}: the container's own map
    subpath: str  # of a volume or an image: what is below this path there
    volume_options: dict[str, str]  # for the volume, if it is made now
    volume_labels: dict[str, str]
    image_id: str  # of an image: what the source was when the container was made
    layers: list[str]
    borrowed: bool  # --volumes-from: the volume belongs to another container too


class VolumeRecord(TypedDict, total=False):
    """volumes/<name>/volume.json. The directory's name is the volume's."""

    Driver: str  # local
    CreatedAt: str  # RFC 3339 with nanoseconds, UTC
    Labels: dict[str, str]
    Options: dict[str, str]  # as asked, and what ``o`` says of UID, GID, SIZE, INODES
    Anonymous: bool
    UID: int  # of the shared user namespace; absent: the first container decides
    GID: int


class SecretUse(TypedDict):
    """One --secret: which secret, and how the container gets it. Its data never stands in a record."""

    id: str
    name: str
    type: str  # mount | env
    target: str  # absolute path in the container, or the variable's name
    uid: int
    gid: int
    mode: int


class LogConfig(TypedDict, total=False):
    driver: str  # k8s-file | json-file | journald | none | passthrough
    path: str
    max_size: int  # bytes, 0: no limit
    max_file: int
    tag: str  # journald only, as are:
    labels: dict[str, str]  # further fields of each entry
    id: str  # the container's, and its name: known to the monitor alone
    name: str


class EventLog(TypedDict):
    """Where events are written: see rl.monitor.eventlog."""

    backend: str  # file | journald | none
    path: str
    limit: int  # bytes of the file, after which another is begun; 0: none


class Event(TypedDict, total=False):
    """A line of the log of events; Time, timeNano, Type, Status, ID and Name are always there."""

    Time: str  # RFC 3339 with nanoseconds, UTC
    timeNano: int
    Type: str  # container | image | volume | secret | pod | network | system
    Status: str
    ID: str
    Name: str
    Image: str
    ContainerExitCode: int
    HealthStatus: str
    Network: str
    PodID: str
    Error: str
    Attributes: dict[str, str]  # a container's labels, and more


class RestartPolicy(TypedDict):
    policy: str  # no | on-failure | always | unless-stopped
    retries: int  # with on-failure: how often at most, 0: no limit


class NetworkRequest(TypedDict, total=False):
    """``mode``: default | pasta | slirp4netns | host | none | private | container:ID | ns:PATH."""

    mode: str
    options: list[str]  # what followed the colon in --network=pasta:…
    ports: list[PortMapping]
    dns: list[str]
    dns_search: list[str]
    dns_options: list[str]
    add_hosts: list[str]
    no_hosts: bool
    no_hostname: bool
    hosts_file: str  # base of /etc/hosts: path | image | none | "" (as containers.conf says)
    mac: str  # hardware address asked for, "" = any
    no_resolv: bool


class HealthCheck(TypedDict, total=False):
    """How to probe; times in nanoseconds, as in the images' HEALTHCHECK."""

    test: list[str]  # ["CMD", word…], ["CMD-SHELL", line] or ["NONE"]
    shell: list[str]  # what CMD-SHELL is given to
    interval: int  # from the end of a probe to the next one; 0: by hand only
    timeout: int
    retries: int  # failures in a row until unhealthy; of a start-up check: until a restart, 0: never
    success: int  # start-up check only: how often it has to succeed


class HealthConfig(HealthCheck, total=False):
    """A container's health check."""

    start_period: int  # failures do not count so long, unless it has succeeded
    start_interval: int  # the interval meanwhile; 0: the same
    on_failure: str  # none | kill | restart | stop
    startup: HealthCheck  # probes until it succeeds; only then the others begin
    log_destination: str  # local | events_logger | a directory
    max_log_count: int  # entries, 0: no limit
    max_log_size: int  # characters of each one's output, 0: no limit


class HealthLogEntry(TypedDict):
    """One probe; the keys are those that `inspect` shows."""

    Start: str  # RFC 3339 with nanoseconds
    End: str
    ExitCode: int  # -1: it took too long
    Output: str


class HealthRecord(TypedDict, total=False):
    """containers/<id>/health.json: how the container is; written at the start, then after each probe."""

    status: str  # starting | healthy | unhealthy
    failing_streak: int
    log: list[HealthLogEntry]


class ContainerConfig(TypedDict, total=False):
    """containers/<id>/config.json: what was asked, resolved against the image once, at create."""

    id: str
    name: str
    created: str  # RFC 3339 with nanoseconds, UTC
    create_command: list[str]
    image: str  # normalized reference as asked, "" with --rootfs
    image_id: str  # 64 hex digits
    rootfs: str  # --rootfs: a directory on the host
    rootfs_overlay: bool  # it stays as it is: what the container changes is lost at its end
    layers: list[str]  # diff ids, base first
    driver: str  # storage driver asked for by name; "" = the first start chooses
    id_key: str  # which on-disk id mapping of the layers: "" | "single" | …
    command: list[str]  # full argument vector
    entrypoint: list[str]
    arguments: list[str]
    env: list[str]
    workdir: str
    user: str
    group_add: list[str]
    host_users: list[tuple[str, int, int, str, str]]  # --hostuser: name, uid, gid, full name, home
    umask: str
    timezone: str
    hostname: str
    terminal: bool
    stdin_open: bool
    detach_keys: str
    userns: str  # "" (the shared namespace) | host | keep-id… | nomap | auto…
    uid_map: list[IdRange]  # of a nested user namespace, in ids of the shared one; [] = none
    gid_map: list[IdRange]
    pid_mode: str
    ipc_mode: str
    uts_mode: str
    cgroupns_mode: str
    network: NetworkRequest
    mounts: list[MountSpec]
    secrets: list[SecretUse]
    read_only: bool
    read_only_tmpfs: bool
    shm_size: int
    devices: list[str]
    cdi_devices: list[str]  # VENDOR/CLASS=NAME, described in:
    cdi_directories: list[str]
    cap_add: list[str]
    cap_drop: list[str]
    privileged: bool
    security_opt: list[str]
    sysctl: dict[str, str]
    ulimits: list[str]
    init: bool
    systemd: bool  # a place for systemd: see rl.engine.spec.systemd
    labels: dict[str, str]
    annotations: dict[str, str]
    stop_signal: int
    stop_timeout: int
    remove: bool
    pod: str  # id, and name, of the pod it is in
    pod_name: str
    requires: list[str]  # ids of the containers that --requires names
    restart: RestartPolicy
    log: LogConfig
    health: HealthConfig  # absent: none asked for, none in the image
    limits: dict[str, Any]  # memory, cpus, pids, … as asked, in bytes / units
    runtime: str
    options: dict[str, Any]  # every flag given, by name, for inspect
    image_config: dict[str, Any]  # the image's own `config` object


class ContainerState(TypedDict, total=False):
    """containers/<id>/state.json: where it stands. Written by the monitor while one lives."""

    status: str  # created | initialized | running | paused | stopping | restarting | exited | removing
    pid: int  # host pid of the container's init, 0 when none
    pid_start: int  # its start time, clock ticks after boot
    monitor_pid: int
    boot_id: str
    started: str  # RFC 3339 with nanoseconds, "" = never
    finished: str
    exit_code: int
    oom_killed: bool
    error: str
    driver: str  # the storage driver whose writable layer this is; set at the first start
    network: dict[str, Any]  # what rl.network reported: mode, ip, gateway …
    cgroup: str  # directory of the container's cgroup, "" without one
    cgroup_manager: str  # systemd | cgroupfs | "" (none)
    restarts: int  # how often its restart policy has started it since `rl start`
    stopped_by_user: bool  # by `rl stop` or `rl kill`: its restart policy does not count
    affinity: list[int]  # CPUs its processes are bound to where no cgroup can; [] = not


class LayerInfo(TypedDict, total=False):
    diff_id: str
    size: int  # bytes unpacked
    entries: int


class SecretRecord(TypedDict, total=False):
    """secrets/<id>/secret.json: what is known of a secret, its data left out."""

    id: str  # 25 hex digits
    name: str
    driver: str  # file | pass | shell
    options: dict[str, str]  # of the driver
    labels: dict[str, str]
    created: str
    updated: str


class ImageRecord(TypedDict, total=False):
    """images/<quoted name>: one name. An image is its config digest (the id), as in Podman."""

    name: str  # normalized, with tag: docker.io/library/nginx:latest
    manifest: str  # sha256:… of the platform's manifest
    index: str  # sha256:… of the list it came from, "" when none
    id: str  # config digest, 64 hex digits
    created: str
    pulled: str
    size: int  # bytes, unpacked layers
    layers: list[str]  # diff ids, base first
    digests: list[str]  # repo digests: name@sha256:…
    history: list[str]  # the names it has had, latest first
