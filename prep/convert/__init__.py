"""Turn the sources that a recipe names into staged records, with every entry accounted for.

Offers `recipe.Recipe`, `resolve.resolve_sources`, `convert_all.convert_all`, `staged` (the files of
records), `lookups` (whether these still hold), `images` (how shards store an image) and
`doctor.examine_source`. Must not know how records are blended, and writes no shard.
"""
