"""Fixtures of the system tests: the installed `rl` as an ordinary user."""

from system.conftest import _user_rl, busybox_archive, rl

__all__ = ["_user_rl", "busybox_archive", "rl"]
