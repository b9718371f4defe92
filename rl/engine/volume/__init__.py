"""The verbs of `rl volume`, a module each; what a container's launch needs is in rl.engine.volumes."""
