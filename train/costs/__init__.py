"""Operations and bytes of a model: what a training step costs.

Offers `flops.flops_of`, `memory.state_memory`, `live_bytes.LiveBytes`, `tower_cost.tower_bytes`, and
the table `gpus.GPUS`. Takes models and numbers; knows no run, no shards and no config.
"""
