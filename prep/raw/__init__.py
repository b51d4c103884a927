"""Raw data as it comes: folders, archives, large JSON, Parquet cells, base64, local or remote.

Reads, and decides nothing: no recipe, no source.
"""
