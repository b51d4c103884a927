"""The report of a build: what became of every row and record, and the check that none is lost.

Offers `report.make_report`, `report.check_conservation`, `report.write_report` and
`unused_examples.find_unused_examples`. Reads results of tasks and staged records; writes no shard.
"""
