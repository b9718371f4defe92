"""New file systems: tmpfs, ramfs, devpts, by --tmpfs and --mount. Source: tmpfs(5), mount(8), podman-run(1)."""

from __future__ import annotations

from rl.engine.spec import values
from rl.engine.spec.mounts import PROPAGATION
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import MountSpec

_FLAGS = frozenset(
    ("ro", "rw", "exec", "noexec", "dev", "nodev", "suid", "nosuid", "atime", "noatime", "relatime", "strictatime",
     "nodiratime", "sync", "async", "tmpcopyup", "notmpcopyup", "noswap", "U", *PROPAGATION)
)
_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge")
_EXCLUDE = (("ro", "rw"), ("exec", "noexec"), ("dev", "nodev"), ("suid", "nosuid"), ("tmpcopyup", "notmpcopyup"),
            ("sync", "async"), PROPAGATION)
#: ramfs has a mode and nothing else: its pages are never written anywhere, and nothing bounds them.
_NOT_RAMFS = ("size", "nr_inodes", "nr_blocks", "mpol", "huge", "noswap")
_DEFAULTS = ("nosuid", "nodev", "rprivate", "tmpcopyup")


def spec(kind: str, destination: str, asked: list[str], flag: str) -> MountSpec:
    """The mount of a new tmpfs or ramfs with options as of --tmpfs. Raises UsageError, UnsupportedError."""
    for option in asked:
        key, equals, value = option.partition("=")
        if (equals and key not in _VALUES) or (not equals and key not in _FLAGS):
            hint = "use size=, mode=, ro, noexec, nosuid, nodev …"
            raise UsageError(f"{flag}: unknown option {option!r}", hint)
        if equals:
            _check_value(key, value, flag)
        if kind == "ramfs" and key in _NOT_RAMFS:
            raise UnsupportedError(
                f"{flag}: a ramfs cannot have {key}: the kernel bounds it by nothing", "use type=tmpfs for that"
            )
    for group in _EXCLUDE:
        given = [option for option in asked if option in group]
        if len(given) > 1:
            raise UsageError(f"{flag}: {given[0]} and {given[1]} exclude each other", "leave one of them out")
    if "U" in asked and any(option.startswith(("uid=", "gid=")) for option in asked):
        raise UsageError(f"{flag}: U and uid=, gid= exclude each other", "leave one of them out")
    defaults = [o for o in _DEFAULTS if o != "rprivate" or not any(option in PROPAGATION for option in asked)]
    options = [*defaults, *asked]
    if "notmpcopyup" in asked:
        options = [o for o in options if o not in ("tmpcopyup", "notmpcopyup")]
    return {"type": kind, "source": kind, "destination": destination, "options": list(dict.fromkeys(options))}


def _check_value(key: str, value: str, flag: str) -> None:
    if key in ("uid", "gid"):
        values.integer(value, f"{flag}: {key}", 0, 0xFFFFFFFE)
    elif key == "mode":
        octal(value, f"{flag}: mode", 0o7777)
    elif key == "size" and not value.endswith("%"):
        values.size(value, f"{flag}: size")
    elif not value:
        raise UsageError(f"{flag}: {key} has no value")


def octal(text: str, flag: str, highest: int) -> str:
    """*text* if it is an octal mode."""
    if not text or not set(text) <= set("01234567") or int(text, 8) > highest:
        raise UsageError(f"{flag}: {text!r} is not an octal mode", f"write 0 to {highest:o}")
    return text


def devpts(destination: str, fields: dict[str, str], flag: str) -> MountSpec:
    """type=devpts: terminals of its own. *fields*: uid, gid, mode, max. Raises UsageError."""
    options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "rprivate"]
    values_of = {"gid": "5", **fields}  # tty, as the usual /dev/pts has it
    mode = "0620"
    for key, value in values_of.items():
        if key in ("uid", "gid"):
            options.append(f"{key}={values.integer(value, f'{flag}: {key}', 0, 0xFFFFFFFE)}")
        elif key == "max":
            options.append(f"max={values.integer(value, f'{flag}: max', 0, 1 << 20)}")
        elif key == "mode":
            mode = octal(value, f"{flag}: mode", 0o777)
        elif key == "readonly":
            options += ["ro"] if values.boolean(value, f"{flag}: readonly") else []
        else:
            raise UsageError(f"{flag}: unknown devpts option {key!r}", "known: uid, gid, mode, max, readonly")
    return {"type": "devpts", "source": "devpts", "destination": destination, "options": [*options, f"mode={mode}"]}
