"""Raw data as it comes: folders, archives, large JSON, Parquet cells and base64, local or remote.

Offers `data_path` (a local path or URL), `ImageFiles` (the image that a reference names),
`identity` (which picture an image is), `PictureIndex` (pictures of large containers by name),
`json_stream` (annotation files of any size), `Rejected` and `ConversionCounts` (why something is
not used, and how often), `keyed_hash`, and `lookahead`. Reads and decides nothing: it must not know
sources, recipes or plans.
"""
