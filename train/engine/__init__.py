"""A model, loaded and frozen as configured, given to DeepSpeed; the processes of a run.

Offers `build_model` and `load_model`, `start_engine`, `batch_loss`, `gather_weights`,
`deepspeed_dictionary`, and of the processes `prepare_environment`, `connect_processes` and
`StopRequest`. Must not know loaders, steps, checkpoints.
"""
