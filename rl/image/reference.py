"""Image references: ``[registry[:port]/]repository[:tag][@digest]``, parsed and printed.

Called by the image store, the registry client, the archives and every verb that takes an image.
On the hot path of ``rl run``: no ``re``, the grammar is checked by hand.

Source: the distribution project's reference grammar; when a name's first component is a registry
follows Docker (it has a ``.`` or a ``:``, is ``localhost``, or has an upper-case letter).
"""

from __future__ import annotations

from rl.errors import UsageError

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HOST = _ALNUM | {"-"}
_TAG = _ALNUM | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")
_IPV6 = frozenset("0123456789abcdefABCDEF:.")
_SEPARATORS = ("", ".", "_", "__")  # and any number of dashes

#: Hexadecimal digits of each digest algorithm.
DIGEST_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}

#: Where a repository of one component really lives.
DOCKER = "docker.io"
_DOCKER_ALIASES = ("index.docker.io", "registry-1.docker.io")
LOCALHOST = "localhost"

_HINT = "write it as [registry[:port]/]name[:tag] in lower case, for example docker.io/library/nginx:1.25"


class Reference:
    """One parsed reference; ``registry`` is "" for a short name, ``tag`` and ``digest`` are "" when absent."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """registry/repository, without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def __str__(self) -> str:
        text = self.name
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def with_default_tag(self) -> Reference:
        """The same, with the tag ``latest`` where neither a tag nor a digest was given."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, "latest")

    def with_registry(self, registry: str) -> Reference:
        """The same in *registry*; docker.io keeps names of one component under ``library/``."""
        repository = self.repository
        if registry == DOCKER and "/" not in repository:
            repository = f"library/{repository}"
        return Reference(registry, repository, self.tag, self.digest)

    def without_tag(self) -> Reference:
        """The same without the tag: what the registry is asked where a digest was given."""
        return Reference(self.registry, self.repository, "", self.digest)


def parse(text: str) -> Reference:
    """The reference that *text* writes. Raises UsageError, with a hint, where it breaks the grammar.

    ``docker://`` in front is taken off, as Podman does; docker.io/nginx becomes docker.io/library/nginx.
    """
    rest = text[9:] if text.startswith("docker://") else text
    if "://" in rest:
        scheme, _, after = rest.partition("://")
        hint = f"leave out {scheme}://: {after.rstrip('/')}" if after and scheme in ("http", "https") else _HINT
        raise UsageError(f"invalid reference {text!r}: a reference is not a URL", hint)
    rest, at, digest = rest.partition("@")
    if at:
        _check_digest(text, digest)
    slash = rest.rfind("/")
    colon = rest.rfind(":")
    tag = ""
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not tag or not _TAG.issuperset(tag) or tag[0] in ".-" or len(tag) > 128:
            raise UsageError(
                f"invalid reference {text!r}: {tag!r} is not a tag",
                "a tag has up to 128 letters, digits, '_', '.', '-' and begins with a letter, a digit or '_'",
            )
    registry, repository = _split(rest)
    if registry:
        _check_registry(text, registry)
        if registry in _DOCKER_ALIASES:
            registry = DOCKER
    _check_repository(text, repository)
    if registry == DOCKER and "/" not in repository:
        repository = f"library/{repository}"
    if len(registry) + len(repository) > 255:
        raise UsageError(f"invalid reference {text[:40]!r}…: it is longer than 255 characters", "use a shorter name")
    if not registry and len(repository) == 64 and _HEX.issuperset(repository):
        raise UsageError(
            f"invalid reference {text!r}: 64 hexadecimal digits are an image ID, not a name", "choose another name"
        )
    return Reference(registry, repository, tag, digest)


def normalize(text: str, registry: str = LOCALHOST) -> str:
    """The full name, with tag, under which *text* is stored.

    A short name gets *registry*: ``localhost`` for what is made here (tag, import, commit, build),
    ``docker.io`` for what Docker saved. Raises UsageError.
    """
    reference = parse(text)
    if not reference.registry:
        reference = reference.with_registry(registry)
    return str(reference.with_default_tag())


def is_digest(text: str) -> bool:
    """Whether *text* is ``algorithm:hex`` with an algorithm of the OCI image specification."""
    algorithm, _, value = text.partition(":")
    return len(value) == DIGEST_LENGTH.get(algorithm, -1) and _HEX.issuperset(value)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == LOCALHOST or first != first.lower()):
        return first, rest
    return "", name


def _check_digest(text: str, digest: str) -> None:
    if not is_digest(digest):
        raise UsageError(
            f"invalid reference {text!r}: {digest!r} is not a digest", "a digest is sha256: and 64 hexadecimal digits"
        )


def _check_registry(text: str, registry: str) -> None:
    if registry.startswith("["):
        host, bracket, port = registry[1:].partition("]")
        good = bool(bracket) and ":" in host and _IPV6.issuperset(host) and (not port or port.startswith(":"))
        has_port, port = bool(port), port[1:]
    else:
        host, colon, port = registry.partition(":")
        has_port = bool(colon)
        good = all(
            label and _HOST.issuperset(label) and label[0] != "-" and label[-1] != "-" for label in host.split(".")
        )
    if has_port:
        good = good and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    if not good:
        raise UsageError(
            f"invalid reference {text!r}: {registry!r} is not a registry",
            "a registry is a host name or address and, where needed, a port: registry.example.com:5000",
        )


def _check_repository(text: str, repository: str) -> None:
    if not repository:
        raise UsageError(f"invalid reference {text!r}: it has no name", _HINT)
    for component in repository.split("/"):
        if component != component.lower():
            raise UsageError(f"invalid reference {text!r}: the name must be lower case", f"use {text.lower()!r}")
        if not _component(component):
            raise UsageError(f"invalid reference {text!r}: {component!r} is not a part of a name", _HINT)


def _component(component: str) -> bool:
    """Letters and digits, joined by one ``.``, one or two ``_`` or any number of ``-``."""
    if not component or component[0] not in _LOWER or component[-1] not in _LOWER:
        return False
    if _LOWER.issuperset(component):
        return True
    separator = ""
    for character in component:
        if character not in _LOWER:
            separator += character
            continue
        if separator not in _SEPARATORS and separator.strip("-"):
            return False
        separator = ""
    return True
