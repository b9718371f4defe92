"""The rows of contrib/bench."""
