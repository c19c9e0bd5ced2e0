"""Networks, built by name from a config."""
