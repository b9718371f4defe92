"""The verbs of `rl healthcheck`."""
