"""The commands of `rl volume`."""
