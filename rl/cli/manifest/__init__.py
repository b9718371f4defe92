"""Verbs about manifest lists; one file each, see :mod:`rl.cli`."""
