"""From the texts of a dialogue to token ids, and which of them carry loss.

Offers `make_template` (named_template) for rounds to parts and `TextTokenizer` (tokenizer) for
parts to ids; shards, training and chat all use these two. `template` defines the parts,
`encoder` the tokenization of running text. Knows no image, no file of a shard set and no store.
"""
