"""rl build: see docs/architecture.md, "Build"."""
