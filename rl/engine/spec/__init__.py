"""From flags to what was asked: each module turns one family of `rl run` flags into record fields."""
