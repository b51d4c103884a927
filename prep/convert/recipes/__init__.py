"""Recipes that are shipped, as TOML."""
