"""Run whole builds: convert, plan, execute the tasks, check, publish.

Offers `build.build_shards` (one command), `planning.plan_build` (everything decided, nothing
written), `array_build` (plan, shares and finish as jobs of an array) and `retokenize.retokenize` (a
set for another tokenizer). Must not parse flags or print.
"""
