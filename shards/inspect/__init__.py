"""What a shard set holds, whether it is intact, and how the model reads it.

Offers `overview`, `select_samples`, `find_defects`, `token_spans`, and their text for a terminal.
Knows no plan and no training run.
"""
