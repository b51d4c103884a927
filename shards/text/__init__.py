"""Text to token ids, with offsets: templates, tokenizers, and what carries loss.

Knows no file format, no image, no store.
"""
