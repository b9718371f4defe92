"""Fixtures of the system tests: the installed `rl` as an ordinary user."""

from rl.cli.verbs import find
from system.conftest import _user_rl, busybox_archive, registry, rl

__all__ = ["_user_rl", "busybox_archive", "registry", "rl"]

#: The table of cases is proven against Buildah; what compares rl with it waits for the verb, as do the real builds.
collect_ignore = [] if find(["build"])[0] else ["test_build_conformance.py", "test_real_builds.py"]
