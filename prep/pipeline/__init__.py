"""Whole builds: convert, plan, run the tasks, check, publish.

Offers `build.build_shards` (one command), `array_build` (plan, shares and finish as jobs of an
array) and `retokenize.retokenize` (a set for another tokenizer). Parses no flags, prints nothing.
"""
