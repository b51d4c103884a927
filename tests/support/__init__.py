"""What tests and benchmarks share: toy shard sets, servers, runs. Imported as `vchat_testing`.

Never installed.
"""
