"""Runs that are shipped, as TOML."""
