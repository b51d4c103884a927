"""A forecast of a run before a GPU is rented: steps, data, memory per GPU, hours.

Offers `forecast.forecast_run`. Memory is measured on narrow twins of the model (`twin`,
`activations`), summed per GPU (`gpu_memory`) and compared with the GPU (`fitting`). Trains nothing,
writes nothing.
"""
