"""Decide a build: which records join which dialogue, which side of the split, which shard.

Offers `photographs.join_photographs`, `blend.blend_records`, `plan.make_plan`, `plan.read_plan` and
`plan.write_plan`. Pure functions on columns of numbers: must not read a source, an image or a text.
"""
