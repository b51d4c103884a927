"""Sources to staged records: the recipe, the conversion, its accounting, the doctor.

Knows no plan and no shard.
"""
