"""Which samples a step reads, and which steps read a sample.

Offers `select_step_samples` and `find_steps_of_sample`. Answers from the epoch plans; changes
nothing of a run.
"""
