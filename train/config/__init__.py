"""RUN.toml as frozen dataclasses, and the runs that are shipped.

Offers `read_run`, `find_run_file`, `RunConfig` with its sections, `result_settings` and
`settings_digest` (what identifies a run), `ModelSizes` (what data and model must agree on). Configs
stop at constructors: whole-run configs at `run_training`, sections at the objects that they
describe; functions below take values. Must not know torch.
"""
