"""RUN.toml as frozen dataclasses, and the runs that are shipped.

Configs stop at constructors: no other room takes one apart deeper than needed.
"""
