"""References: what is taken, how it is completed, what is refused."""

from __future__ import annotations

import pytest

from rl.errors import UsageError
from rl.image.reference import Reference, normalize, parse

D = "sha256:" + "a" * 64

GOOD = [
    # text, registry, repository, tag, digest
    ("nginx", "", "nginx", "", ""),
    ("nginx:1.25", "", "nginx", "1.25", ""),
    ("team/nginx", "", "team/nginx", "", ""),
    ("docker.io/nginx", "docker.io", "library/nginx", "", ""),
    ("index.docker.io/library/nginx", "docker.io", "library/nginx", "", ""),
    ("docker://quay.io/a/b", "quay.io", "a/b", "", ""),
    ("localhost/nginx:x", "localhost", "nginx", "x", ""),
    ("localhost:5000/nginx", "localhost:5000", "nginx", "", ""),
    ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000", "a/b/c", "t", ""),
    ("[::1]:5000/a", "[::1]:5000", "a", "", ""),
    ("[fe80::1]/a", "[fe80::1]", "a", "", ""),
    ("Registry/a", "Registry", "a", "", ""),
    (f"nginx@{D}", "", "nginx", "", D),
    (f"quay.io/a:t@{D}", "quay.io", "a", "t", D),
    ("a__b/c---d/e.f_g", "", "a__b/c---d/e.f_g", "", ""),
    ("x:" + "t" * 128, "", "x", "t" * 128, ""),
    ("x:_T-1.0", "", "x", "_T-1.0", ""),
    ("a" * 63, "", "a" * 63, "", ""),
    ("q.io/" + "a" * 64, "q.io", "a" * 64, "", ""),
]


@pytest.mark.parametrize(("text", "registry", "repository", "tag", "digest"), GOOD)
def test_parse(text: str, registry: str, repository: str, tag: str, digest: str) -> None:
    found = parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, digest)
    assert parse(str(found)) == found


BAD = [
    "", ":tag", "/a", "a/", "a//b", "Nginx", "a/B", "a:", "a:-x", "a:.x", "a:" + "t" * 129, "a b", "a:x y", "-a", "a-",
    "a___b", "a._b", "a..b", "a.b.", "é", "a:é", "a@", "a@sha256:abc", f"a@{D}x", "a@md5:" + "a" * 32, f"@{D}",
    "https://quay.io/a", "http://q.io/a", "localhost:port/a", "q.io:0/a", "q.io:99999/a", "q..io/a", "-q.io/a",
    "q-.io/a", "[::1/a", "[]:5000/a", "[::1]x/a", "a" * 64, "a" * 256, "q.io/" + "a/" * 130 + "b", "../x", "./x",
    "q.io/../x", "a:b:c", "a\n", "a\0", "docker://",
]


@pytest.mark.parametrize("text", BAD)
def test_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "registry", "full"),
    [
        ("nginx", "localhost", "localhost/nginx:latest"),
        ("nginx:1", "localhost", "localhost/nginx:1"),
        ("nginx", "docker.io", "docker.io/library/nginx:latest"),
        ("team/nginx", "docker.io", "docker.io/team/nginx:latest"),
        ("docker.io/nginx", "localhost", "docker.io/library/nginx:latest"),
        ("q.io:80/a", "localhost", "q.io:80/a:latest"),
        (f"q.io/a@{D}", "localhost", f"q.io/a@{D}"),
    ],
)
def test_normalize(text: str, registry: str, full: str) -> None:
    assert normalize(text, registry) == full


def test_url_hint_is_the_reference() -> None:
    with pytest.raises(UsageError) as caught:
        parse("https://quay.io/a/b/")
    assert caught.value.hint.endswith("quay.io/a/b")


def test_reference_is_a_value() -> None:
    assert parse("a:1") == Reference("", "a", "1")
    assert len({parse("a:1"), parse("a:1")}) == 1
    assert parse(f"q.io/a:1@{D}").without_tag() == parse(f"q.io/a@{D}")
