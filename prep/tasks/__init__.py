"""Execute a build plan: one task writes one whole shard, in any process, on any machine.

Offers `job.BuildJob` (what all tasks share, in a file), `task.run_task`, `result.read_results`,
`record_counts.check_conservation`, `output.Output` (where shards go) and `engines.run_tasks` (where
tasks run). Must not know how a plan is made from a recipe, or how a set is published.
"""
