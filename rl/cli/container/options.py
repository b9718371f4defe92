"""The options that `rl run` and `rl create` share. What the engine gets, and must honour:

`options` of :func:`rl.engine.create.create` and :func:`rl.engine.run.run` holds the flags that were given and
nothing else; the key is the first long name with underscores. Type of the value by kind: ``flag`` bool,
``value`` str (int for check ``int``/``uint``, float for ``float``), ``array`` and ``list`` list[str] (a ``list`` is
already split at its commas).

What each means is podman-run(1). What needs a second look:

=====================  ===========================================================================
attach                 list[str]: stdin stdout stderr (any case); without it all that -i/-d allow
entrypoint             a word, or a JSON array of words; "" clears the image's
env                    NAME=VALUE, NAME (from the caller's environment), NAME* (all that begin so)
env_file, label_file   list[str] of paths
http_proxy             default true: pass http_proxy, https_proxy, ftp_proxy, no_proxy (and capitals) on
image_volume           anonymous (also: bind) | tmpfs | ignore
memory… shm_size       str such as 512m, 1g, -1
cgroups cgroup_parent  see rl.engine.cgroups; cgroup_conf: list[str], KEY=VALUE
blkio… device_read…    list[str]: DEVICE:VALUE
network                list[str]; each pasta[:opts], slirp4netns[:opts], host, none, private, container:ID, ns:PATH
platform               OS/ARCH[/VARIANT], excludes arch, os, variant
publish                list[str]: [[IP:][HOST]:]CONTAINER[-RANGE][/udp]
read_only_tmpfs        default true: tmpfs on /run /tmp /var/tmp … when read_only
rootfs                 bool: IMAGE is a directory of the host
security_opt           no-new-privileges[:bool], seccomp=…, mask=…, unmask=…, label=disable, apparmor=…
sig_proxy              run only, default true
stop_signal            name with or without SIG, or number, as str
tls_verify             bool; absent: as registries.conf says
ulimit                 NAME=SOFT[:HARD], or host
trace, trace_file      run only: steps with milliseconds on stderr; Trace Event Format
=====================  ===========================================================================
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.cli.parse import Table

#: The limits that `rl update` can change, too.
LIMITS: Table = (
    ("--blkio-weight", "value", "N", "Share of block I/O relative to others, 10 to 1000; 0: the default", "uint"),
    ("--blkio-weight-device", "list", "DEVICE:N", "Share of the I/O of a block device"),
    ("--cpu-period", "value", "USEC", "CPU bandwidth period in microseconds", "uint"),
    ("--cpu-quota", "value", "USEC", "CPU bandwidth per period in microseconds", "int"),
    ("--cpu-rt-period", "value", "USEC", "Only cgroup v1 has it: refused unless 0", "uint"),
    ("--cpu-rt-runtime", "value", "USEC", "Only cgroup v1 has it: refused unless 0", "uint"),
    ("-c --cpu-shares", "value", "N", "CPU weight relative to others (default 1024)", "uint"),
    ("--cpus", "value", "N", "Number of CPUs the container may keep busy, such as 1.5", "float"),
    ("--cpuset-cpus", "value", "LIST", "CPUs to run on, such as 0-3,7"),
    ("--cpuset-mems", "value", "LIST", "Memory nodes to allocate from"),
    ("--device-read-bps", "list", "DEVICE:RATE", "Bytes per second to read from a block device, such as /dev/sda:10mb"),
    ("--device-read-iops", "list", "DEVICE:RATE", "Reads per second from a block device"),
    ("--device-write-bps", "list", "DEVICE:RATE", "Bytes per second to write to a block device"),
    ("--device-write-iops", "list", "DEVICE:RATE", "Writes per second to a block device"),
    ("-m --memory", "value", "SIZE", "Memory limit, such as 512m"),
    ("--memory-reservation", "value", "SIZE", "Memory soft limit"),
    ("--memory-swap", "value", "SIZE", "Limit of memory and swap together; -1: unlimited swap"),
    ("--memory-swappiness", "value", "N", "Only cgroup v1 has it: refused unless -1", "int"),
    ("--pids-limit", "value", "N", "Number of processes allowed; -1: unlimited", "int"),
)

#: How a container's health is checked, which `rl update` can change, too.
HEALTH: Table = (
    ("--health-cmd", "value", "CMD", "Command that tells whether the container is well: a line, a JSON array; none"),
    ("--health-interval", "value", "TIME", "From one health check to the next (default 30s); disable: only by hand"),
    ("--health-log-destination", "value", "WHERE", "Log of health checks: local, events_logger, or a directory"),
    ("--health-max-log-count", "value", "N", "Entries in the log of health checks (default 5); 0: no limit", "uint"),
    ("--health-max-log-size", "value", "N", "Characters of an entry's output (default 500); 0: no limit", "uint"),
    ("--health-on-failure", "value", "ACTION", "When it becomes unhealthy: none, kill, restart, stop"),
    ("--health-retries", "value", "N", "Failures in a row that make it unhealthy (default 3)", "uint"),
    ("--health-start-interval", "value", "TIME", "From one health check to the next during the start period"),
    ("--health-start-period", "value", "TIME", "Time in which failures do not count, until there is a success"),
    ("--health-startup-cmd", "value", "CMD", "Command that has to succeed before the health checks begin"),
    ("--health-startup-interval", "value", "TIME", "From one start-up check to the next (default 30s)"),
    ("--health-startup-retries", "value", "N", "Failures in a row that restart the container; 0: none do", "uint"),
    ("--health-startup-success", "value", "N", "Successes in a row that it takes (default 1)", "uint"),
    ("--health-startup-timeout", "value", "TIME", "Time that a start-up check may take (default 30s)"),
    ("--health-timeout", "value", "TIME", "Time that a health check may take (default 30s)"),
    ("--no-healthcheck", "flag", "", "Check nothing, whatever the image says"),
)

_OTHERS: Table = (
    ("--add-host", "list", "HOST:IP", "Add a line to the container's /etc/hosts"),
    ("--annotation", "list", "KEY=VALUE", "Add an annotation"),
    ("--arch", "value", "ARCH", "Choose the image for this architecture instead of the machine's"),
    ("-a --attach", "list", "STREAM", "Attach to stdin, stdout or stderr"),
    ("--authfile", "value", "PATH", "Credentials file for the pull (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--cap-add", "list", "CAP", "Add a capability, or ALL"),
    ("--cap-drop", "list", "CAP", "Drop a capability, or ALL"),
    ("--cert-dir", "value", "DIR", "Certificates and keys for the pull (default ~/.config/containers/certs.d)"),
    ("--cgroup-conf", "list", "KEY=VALUE", "Write VALUE to file KEY of the container's cgroup, such as memory.high"),
    ("--cgroup-parent", "value", "PATH", "Where the container's cgroup is made: a slice of systemd, or a path"),
    ("--cgroupns", "value", "MODE", "Cgroup namespace: private, host, container:ID, ns:PATH"),
    ("--cgroups", "value", "MODE", "Make cgroups: enabled (default), disabled, no-conmon, split",
     ("enabled", "disabled", "no-conmon", "split")),
    ("--chrootdirs", "list", "DIR", "Give this root directory in the container hosts, resolv.conf and hostname, too"),
    ("--cidfile", "value", "PATH", "Write the container's id to this new file"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for the pull"),
    ("--conmon-pidfile", "value", "PATH", "Write the process id of the container's monitor to this file"),
    ("--device", "list", "HOST[:CTR[:RWM]]", "Add a device of the host, or VENDOR/CLASS=NAME of a CDI specification"),
    ("--disable-content-trust", "flag", "", "Changes nothing, in Podman as here: for Docker's scripts"),
    ("--dns", "list", "IP", "Name server to use; none: write no resolv.conf"),
    ("--dns-option --dns-opt", "list", "OPTION", "Option for resolv.conf"),
    ("--dns-search", "list", "DOMAIN", "Search domain for resolv.conf"),
    ("--entrypoint", "value", "CMD", "Replace the image's entry point: a word, or a JSON array"),
    ("-e --env", "array", "NAME[=VALUE]", "Set an environment variable; without a value, take the host's"),
    ("--env-file", "list", "PATH", "Read environment variables from a file"),
    ("--env-merge", "array", "NAME=VALUE", "Set a variable from those of the image, such as PATH='${PATH}:/opt/bin'"),
    ("--env-host", "flag", "", "Pass the whole environment of the host on"),
    ("--expose", "list", "PORT", "Expose a port or a range, for --publish-all"),
    ("--gidmap", "list", "CTR:FROM:SIZE", "Map these gids, as --uidmap does"),
    ("--gpus", "list", "GPU", "Add GPUs that the CDI specification of nvidia.com describes: all, or names"),
    ("--group-add", "list", "GROUP", "Further group of the process; keep-groups: the caller's own"),
    ("--group-entry", "value", "LINE", "Line for /etc/group instead of the usual one ($GROUPNAME, $GID, $USERLIST)"),
    ("-h --hostname", "value", "NAME", "Host name of the container"),
    ("--hosts-file", "value", "PATH", "Base of /etc/hosts: a file of the host, image, or none (default /etc/hosts)"),
    ("--hostuser", "list", "USER", "Add an account of the host to the container's /etc/passwd"),
    ("--http-proxy", "flag", "", "Pass the host's proxy variables on (default true)"),
    ("--image-volume", "value", "MODE", "What to do with the image's volumes: anonymous, tmpfs, ignore",
     ("anonymous", "bind", "tmpfs", "ignore")),
    ("--init", "flag", "", "Run an init that forwards signals and reaps processes"),
    ("--init-path", "value", "PATH", "The init of --init (default: catatonit, tini or dumb-init of the host)"),
    ("-i --interactive", "flag", "", "Keep stdin open even if not attached"),
    ("--ipc", "value", "MODE", "IPC namespace: private, shareable, host, none, container:ID, ns:PATH"),
    ("--kernel-memory", "value", "SIZE", "Only cgroup v1 has it: refused unless 0"),
    ("-l --label", "array", "KEY=VALUE", "Set metadata on the container"),
    ("--label-file", "list", "PATH", "Read labels from a file, one per line"),
    ("--log-driver", "value", "NAME", "Where the output goes: k8s-file, journald, json-file, passthrough, none",
     ("k8s-file", "journald", "json-file", "passthrough", "none")),
    ("--log-opt", "array", "NAME=VALUE", "Option of the log: path=, max-size=, max-file=, tag=, label=KEY=VALUE"),
    ("--mac-address", "value", "MAC", "Hardware address of the container's network interface"),
    ("--mount", "array", "SPEC", "Add a mount: type=bind|volume|tmpfs|image|glob|devpts|ramfs,destination=…[,OPTION…]"),
    ("--name", "value", "NAME", "Name of the container"),
    ("--network --net", "array", "MODE", "Network: pasta, slirp4netns, host, none, private, container:ID, ns:PATH"),
    ("--no-hostname", "flag", "", "Keep the image's /etc/hostname"),
    ("--no-hosts", "flag", "", "Keep the image's /etc/hosts"),
    ("--oom-kill-disable", "flag", "", "Only cgroup v1 has it: refused"),
    ("--oom-score-adj", "value", "N", "Preference of the kernel when memory runs out, -1000 to 1000", "int"),
    ("--os", "value", "OS", "Choose the image for this operating system"),
    ("--passwd", "flag", "", "Add a user that the image does not know to /etc/passwd and /etc/group (default true)"),
    ("--passwd-entry", "value", "LINE",
     "Line for /etc/passwd in the place of the usual one ($USERNAME, $UID, $GID, $NAME, $HOME)"),
    ("--personality", "value", "NAME", "Execution domain: LINUX, or LINUX32 for a 32-bit uname",
     ("LINUX", "LINUX32", "linux", "linux32")),
    ("--pid", "value", "MODE", "PID namespace: private, host, container:ID, ns:PATH"),
    ("--pidfile", "value", "PATH", "Write the process id of the container to this file"),
    ("--platform", "value", "OS/ARCH", "Choose the image for this platform"),
    ("--privileged", "flag", "", "All capabilities, all devices, no seccomp filter, nothing masked"),
    ("-p --publish", "list", "PORT", "Publish a port: [[IP:][HOST]:]CONTAINER[-RANGE][/udp]"),
    ("-P --publish-all", "flag", "", "Publish all exposed ports on random ports of the host"),
    ("--pull", "value", "POLICY", "When to pull the image (default missing)", ("missing", "always", "never", "newer")),
    ("-q --quiet", "flag", "", "Show no progress of the pull"),
    ("--read-only", "flag", "", "Mount the root file system read-only"),
    ("--read-only-tmpfs", "flag", "", "With --read-only, mount tmpfs on /run, /tmp and /var/tmp (default true)"),
    ("--replace", "flag", "", "Remove the container that has this name first"),
    ("--retry", "value", "N", "How often a pull that failed is tried again (default 3)", "uint"),
    ("--retry-delay", "value", "DURATION", "Time between two tries of a pull, such as 5s (default: longer each time)"),
    ("--restart", "value", "POLICY", "Start it again when it has ended: no, on-failure[:N], always, unless-stopped"),
    ("--requires", "list", "CONTAINER", "Containers that have to be started before this one"),
    ("--rm", "flag", "", "Remove the container when it ends"),
    ("--rootfs", "flag", "", "IMAGE is a directory: the root file system itself; DIR:O keeps it as it is"),
    ("--sdnotify", "value", "MODE", "Who tells systemd that it is ready: container (default), conmon, healthy, ignore"),
    ("--seccomp-policy", "value", "POLICY", "default, or image: the profile in the image's label, if it has one",
     ("default", "image")),
    ("--secret", "array", "NAME[,OPTION=VALUE]",
     "Give the container a secret: type=mount|env, target=, uid=, gid=, mode="),
    ("--security-opt", "array", "OPTION",
     "no-new-privileges, seccomp=FILE|unconfined, mask=PATHS, unmask=PATHS|ALL, proc-opts=OPTIONS, apparmor=PROFILE"),
    ("--shm-size", "value", "SIZE", "Size of /dev/shm (default 64m)"),
    ("--shm-size-systemd", "value", "SIZE", "Size of /run and /run/lock in systemd mode (default: half of the memory)"),
    ("--stop-signal", "value", "SIGNAL", "Signal that `rl stop` sends (default the image's, or SIGTERM)"),
    ("--stop-timeout", "value", "SECONDS", "Seconds `rl stop` waits before it kills (default 10)", "uint"),
    ("--subgidname", "value", "NAME", "Map the gids that /etc/subgid gives NAME"),
    ("--subuidname", "value", "NAME", "Map the uids that /etc/subuid gives NAME"),
    ("--sysctl", "list", "NAME=VALUE", "Set a kernel parameter of the container's namespaces"),
    ("--systemd", "value", "MODE", "Make it a place for systemd: true (default: if the command is one), false, always",
     ("true", "false", "always", "1", "0")),
    ("--timeout", "value", "SECONDS", "Kill the container after this time; 0: never", "uint"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate for the pull (default true)"),
    ("--tmpfs", "array", "DIR[:OPTIONS]", "Mount a tmpfs"),
    ("-t --tty", "flag", "", "Give the container a terminal"),
    ("--tz", "value", "ZONE", "Time zone: Area/City, or local"),
    ("--uidmap", "list", "CTR:FROM:SIZE", "Map uids, in a user namespace of its own; @FROM: of the host, +CTR: adds"),
    ("--ulimit", "list", "NAME=SOFT[:HARD]", "Set a resource limit; host: keep the host's"),
    ("--umask", "value", "MODE", "Umask of the process (default 0022)"),
    ("--unsetenv", "array", "NAME", "Leave out this default environment variable"),
    ("--unsetenv-all", "flag", "", "Leave out all default environment variables"),
    ("-u --user", "value", "USER[:GROUP]", "User to run as, by name or id"),
    ("--userns", "value", "MODE", "User namespace: host, keep-id[:uid=N,gid=N], nomap, auto[:size=N], container:ID"),
    ("--uts", "value", "MODE", "UTS namespace: private, host, container:ID, ns:PATH"),
    ("--variant", "value", "VARIANT", "Choose the image for this variant of the architecture"),
    ("-v --volume", "array", "[SOURCE:]DIR[:OPTIONS]", "Mount a directory of the host or a volume"),
    ("--volume-driver", "value", "NAME", "Driver of volumes that are made for -v; there is local only"),
    ("--volumes-from", "array", "CONTAINER[:OPTIONS]", "Mount what another container has mounted; options: ro, rw, z"),
    ("-w --workdir", "value", "DIR", "Working directory of the process"),
)

#: In the order of the alphabet, as help shows them.
CREATE: Table = tuple(sorted((*LIMITS, *HEALTH, *_OTHERS), key=lambda row: str(row[0][row[0].index("--") :])))

RUN: Table = (
    ("--preserve-fd", "list", "FD", "Pass these open files on, as they are numbered"),
    ("--preserve-fds", "value", "N", "Pass N further open files on, from 3 on", "uint"),
    ("--rmi", "flag", "", "Remove the image afterwards, unless another container uses it; implies --rm"),
    ("-d --detach", "flag", "", "Run in the background and print the container's id"),
    ("--detach-keys", "value", "KEYS", "Keys that detach (default ctrl-p,ctrl-q); empty: none"),
    ("--sig-proxy", "flag", "", "Pass received signals on to the process (default true)"),
    ("--trace", "flag", "", "Print each step with its milliseconds"),
    ("--trace-file", "value", "PATH", "Write the steps in the Trace Event Format, for Perfetto"),
)
