"""Report a build: what became of every row and record, and what the shards hold.

Offers `report.count_records`, `report.make_report`, `report.write_report`, `listings` (the lines
for page and command) and `unused_examples.find_unused_examples`. Reads results of tasks and staged
records; must not run tasks or write shards.
"""
