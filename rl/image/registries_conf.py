"""registries.conf: where a name is really fetched from.

Short names become full ones (aliases, search registries), full names become endpoints (mirrors, rewritten
locations, insecure or blocked registries). Called by rl.image.pull and the verb login.

Source: containers-registries.conf(5), containers-registries.conf.d(5).
"""

from __future__ import annotations

import os
import sys

from rl.errors import AuthenticationError, NoSuchImageError, RlError, UsageError
from rl.image import reference
from rl.image.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.paths import Paths

_MODES = ("enforcing", "permissive", "disabled")
_MIRROR_USES = ("", "all", "digest-only", "tag-only")
SYSTEM = "/etc/containers"


class Endpoint:
    """One place to ask for an image: registry, repository there, tag or digest; ``mirror`` of another."""

    __slots__ = ("host", "insecure", "mirror", "repository", "which")

    def __init__(self, host: str, repository: str, which: str, insecure: bool, mirror: bool) -> None:
        self.host = host
        self.repository = repository
        self.which = which
        self.insecure = insecure
        self.mirror = mirror

    def __repr__(self) -> str:
        return f"Endpoint({self.host}/{self.repository} {self.which}, insecure={self.insecure}, mirror={self.mirror})"


class RegistriesConf:
    """What all files together say; ``file`` is the main one, for messages."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.search: list[str] = []
        self.mode = "permissive"
        self.aliases: dict[str, str] = {}
        self.registries: dict[str, dict[str, Any]] = {}  # prefix → [[registry]] table

    # short names

    def candidates(self, wanted: Reference, interactive: bool = False) -> list[Reference]:
        """The full names a reference may stand for, in the order to try them.

        *interactive*: the caller lets the user choose, so several are fine in every mode.
        Raises NoSuchImageError where the files name no registry, UsageError in enforcing mode.
        """
        if wanted.registry:
            return [wanted]
        alias = self.aliases.get(wanted.repository)
        if alias:
            full = reference.parse(alias)
            return [Reference(full.registry, full.repository, wanted.tag, wanted.digest)]
        if not self.search:
            raise NoSuchImageError(
                f"{wanted} does not say which registry it is in, and no search registry is configured in {self.file}",
                f"give the full name, for example {wanted.with_registry(reference.DOCKER)}; or put"
                ' unqualified-search-registries = ["docker.io"] into ~/.config/containers/registries.conf',
            )
        found = [wanted.with_registry(registry) for registry in self.search]
        if len(found) > 1 and self.mode == "enforcing" and not interactive:
            raise UsageError(
                f"{wanted} may mean {' or '.join(str(name) for name in found)}, and short-name-mode is enforcing",
                "give the full name",
            )
        return found

    # endpoints

    def table(self, name: str) -> tuple[str, dict[str, Any]]:
        """(prefix, [[registry]] table) for a full name: the longest prefix that matches; ("", {}): none."""
        best = ""
        for prefix in self.registries:
            if len(prefix) > len(best) and _matches(prefix, name):
                best = prefix
        return best, self.registries.get(best, {})

    def is_insecure(self, name: str) -> bool:
        """Whether *name* (a registry, or more) may be reached without TLS."""
        return bool(self.table(name)[1].get("insecure"))

    def endpoints(self, wanted: Reference) -> list[Endpoint]:
        """Where to ask for *wanted* (a full name with tag or digest), mirrors first. Raises for a blocked one."""
        if wanted.digest:
            wanted = wanted.without_tag()
        name = str(wanted)
        prefix, table = self.table(name)
        if table.get("blocked"):
            raise AuthenticationError(
                f"{name}: registry {prefix} is blocked in {table['_file']}",
                "use another registry, or ask who set it so",
            )
        found = []
        for mirror in table.get("mirror", ()):
            use = mirror.get("pull-from-mirror", "")
            if table.get("mirror-by-digest-only"):
                use = "digest-only"
            if (use == "digest-only" and not wanted.digest) or (use == "tag-only" and wanted.digest):
                continue
            found.append(_endpoint(name, prefix, mirror["location"], bool(mirror.get("insecure")), True))
        found.append(_endpoint(name, prefix, table.get("location", ""), bool(table.get("insecure")), False))
        return found


def _matches(prefix: str, name: str) -> bool:
    if prefix.startswith("*."):
        host = name.partition("/")[0].partition(":")[0]
        return host.endswith(prefix[1:])
    if not name.startswith(prefix):
        return False
    # After a mere host, ":" would begin a port: another registry.
    return name[len(prefix) :][:1] in (("", "/", ":", "@") if "/" in prefix else ("", "/"))


def _endpoint(name: str, prefix: str, location: str, insecure: bool, mirror: bool) -> Endpoint:
    if location:
        name = location + (
            name.partition("/")[2] and "/" + name.partition("/")[2] if prefix.startswith("*.") else name[len(prefix) :]
        )
    host, _, rest = name.partition("/")
    rest, _, digest = rest.partition("@")
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    else:
        tag = ""
    if host == reference.DOCKER and "/" not in rest:
        rest = f"library/{rest}"
    return Endpoint(host, rest, digest or tag or "latest", insecure, mirror)


# reading


def load(paths: Paths, environ: Mapping[str, str] = os.environ, system: str = SYSTEM) -> RegistriesConf:
    """The user's registries.conf, else the system's; then the drop-ins of both; then remembered aliases.

    $CONTAINERS_REGISTRIES_CONF names a file to use instead, without drop-ins. Raises RlError naming a file that is
    not TOML or says something impossible.
    """
    main = environ.get("CONTAINERS_REGISTRIES_CONF") or f"{paths.config}/registries.conf"
    if not os.path.exists(main) and main != environ.get("CONTAINERS_REGISTRIES_CONF"):
        main = f"{system}/registries.conf"
    conf = RegistriesConf(main)
    files = [main]
    if not environ.get("CONTAINERS_REGISTRIES_CONF"):
        for directory in (f"{system}/registries.conf.d", f"{paths.config}/registries.conf.d"):
            files += _drop_ins(directory)
    for file in files:
        _merge(conf, _read(file), file)
    file = aliases_file(paths)
    if os.access(file, os.R_OK):  # not where we are root of a user namespace only: it is a cache
        _merge_aliases(conf, _read(file).get("aliases", {}), file)
    return conf


def aliases_file(paths: Paths) -> str:
    """Where a choice among search registries is remembered (shared with the other container tools)."""
    base = "/var/cache" if os.getuid() == 0 else os.path.dirname(paths.cache)
    return f"{base}/containers/short-name-aliases.conf"


def remember_alias(paths: Paths, wanted: Reference, chosen: Reference) -> None:
    """Record that the short name *wanted* means *chosen* from now on. Raises RlError."""
    from rl.config.jsonio import dumps, write_atomic

    file = aliases_file(paths)
    aliases = _read(file).get("aliases", {})
    aliases[wanted.repository] = chosen.name
    lines = ["[aliases]"] + [f"  {dumps(name)} = {dumps(value)}" for name, value in sorted(aliases.items())]
    try:
        os.makedirs(os.path.dirname(file), 0o700, exist_ok=True)
        write_atomic(file, ("\n".join(lines) + "\n").encode(), 0o600)
    except OSError as error:
        raise RlError(f"remember what {wanted} means in {file}: {error.strerror}", "give full names") from None


def _drop_ins(directory: str) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if name.endswith(".conf")]
    except OSError:
        return []


def _read(file: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(file, "rb") as opened:
            return dict(tomllib.load(opened))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RlError(f"read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RlError(
            f"read {file}: {error}", "correct that line; containers-registries.conf(5) has the syntax"
        ) from None


def _merge(conf: RegistriesConf, document: dict[str, Any], file: str) -> None:
    if isinstance(document.get("registries"), dict):
        _merge_version1(conf, document["registries"], file)
    if "unqualified-search-registries" in document:
        conf.search = _strings(document["unqualified-search-registries"], "unqualified-search-registries", file)
    mode = document.get("short-name-mode", "")
    if mode:
        if mode not in _MODES:
            raise _wrong(file, f"short-name-mode {mode!r} is none of {', '.join(_MODES)}")
        conf.mode = mode
    tables = document.get("registry", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _wrong(file, "registry is not an array of tables: write [[registry]]")
    for table in tables:
        prefix, checked = _table(table, file)
        conf.registries[prefix] = checked
    _merge_aliases(conf, document.get("aliases", {}), file)


def _merge_aliases(conf: RegistriesConf, aliases: Any, file: str) -> None:
    if not isinstance(aliases, dict):
        raise _wrong(file, "aliases is not a table")
    for name, value in aliases.items():
        if not isinstance(value, str):
            raise _wrong(file, f"alias {name}: not a string")
        if not value:
            conf.aliases.pop(name, None)
            continue
        try:
            full = reference.parse(value)
        except UsageError as error:
            raise _wrong(file, f"alias {name}: {error.message}") from None
        if not full.registry or full.tag or full.digest:
            raise _wrong(file, f"alias {name} = {value!r}: not a full name without tag and digest")
        conf.aliases[name] = value


def _table(table: dict[str, Any], file: str) -> tuple[str, dict[str, Any]]:
    """One [[registry]] table, checked, with its prefix."""
    location = _location(table.get("location", ""), file)
    prefix = _location(table.get("prefix", ""), file) or location
    if not prefix:
        raise _wrong(file, "a [[registry]] has neither prefix nor location")
    if prefix.startswith("*.") and "/" in prefix:
        raise _wrong(file, f"prefix {prefix!r}: after *. only a domain may follow")
    if not location and not prefix.startswith("*."):
        location = prefix
    mirrors = table.get("mirror", [])
    if not isinstance(mirrors, list) or not all(isinstance(mirror, dict) for mirror in mirrors):
        raise _wrong(file, "mirror is not an array of tables: write [[registry.mirror]]")
    checked = []
    for mirror in mirrors:
        use = mirror.get("pull-from-mirror", "")
        if use not in _MIRROR_USES or (use and table.get("mirror-by-digest-only")):
            raise _wrong(
                file, f"pull-from-mirror {use!r}: all, digest-only or tag-only, and not beside mirror-by-digest-only"
            )
        place = _location(mirror.get("location", ""), file)
        if not place:
            raise _wrong(file, f"a mirror of {prefix} has no location")
        checked.append({**mirror, "location": place})
    for key in ("insecure", "blocked", "mirror-by-digest-only"):
        if not isinstance(table.get(key, False), bool):
            raise _wrong(file, f"{key} of {prefix} is neither true nor false")
    return prefix, {**table, "location": location, "mirror": checked, "_file": file}


def _location(value: Any, file: str) -> str:
    if not isinstance(value, str):
        raise _wrong(file, f"{value!r} is not a string")
    if value.startswith(("http://", "https://")):
        raise _wrong(file, f"location {value!r}: leave out {value.partition('//')[0]}//")
    return value.rstrip("/")


def _merge_version1(conf: RegistriesConf, tables: dict[str, Any], file: str) -> None:
    """The format before 2018: [registries.search], [registries.insecure], [registries.block]."""
    lists = {}
    for key in ("search", "insecure", "block"):
        table = tables.get(key, {})
        lists[key] = _strings(
            table.get("registries", []) if isinstance(table, dict) else table, f"registries.{key}", file
        )
    conf.search = lists["search"] or conf.search
    for registry in (*lists["insecure"], *lists["block"]):
        conf.registries[registry] = {
            "location": registry,
            "insecure": registry in lists["insecure"],
            "blocked": registry in lists["block"],
            "mirror": [],
            "_file": file,
        }


def _strings(value: Any, key: str, file: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(file, f"{key} is not an array of strings")
    return [item.rstrip("/") for item in value]


def _wrong(file: str, why: str) -> RlError:
    return RlError(f"{file}: {why}", "correct that file; containers-registries.conf(5) has the syntax")
