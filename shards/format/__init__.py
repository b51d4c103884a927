"""A shard set on disk: records, samples, tar files, index, manifest.

Offers `Record` and `Dialogue` (record), `Sample` with `encode_sample` and `decode_sample` (sample),
`write_shard` (writer), `publish` (publish) and `open_shards` with the `ShardSet` that it returns.
`FORMAT.md` beside this file describes every byte. A set is written whole or is not there, and every
byte that is read is checked. Knows no plan and no loader.
"""
