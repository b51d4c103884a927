"""A small drawn world in the formats of all 13 data sets, to try the whole line without downloads.

Offers `write_world` (the command `vchat-prep sample-data`). Must not know: how sources read these
files; it writes what upstream publishes.
"""
