"""Verbs about rl itself: registries' credentials, information, the user namespace, completion."""
