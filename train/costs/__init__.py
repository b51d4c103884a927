"""Operations and bytes of a model: what a training step costs.

Offers `flops.flops_of` and `pairs_of_epoch`, `memory.state_memory`, `live_bytes.LiveBytes`,
`tower_cost.tower_bytes`, and the table `gpus.GPUS`. Takes models, plans and numbers; knows no run
and no config.
"""
