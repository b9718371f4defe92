"""Where things are kept and what the ecosystem's configuration files say."""
