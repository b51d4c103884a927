"""What a run writes down, and what is drawn from it.

Offers `TrainingLog` (log.jsonl and progress), `open_trackers` (TensorBoard, Weights & Biases),
`read_log` and `write_report` (the page of curves). Knows no loop, no engine and no model: it takes
numbers by step.
"""
