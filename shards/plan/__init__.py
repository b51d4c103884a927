"""Epoch plans: which samples an epoch reads, in which order, packed into which rows.

A plan is a pure function of the index of the shard sets, `PlanArguments` and nothing else; a digest
names it. Rows per step, world size and micro-batch are views of a plan.

Entry points: `plan_epoch` makes an `EpochPlan`, `deal_rows` divides a step among ranks,
`PlanCursor` says what one rank reads next and keeps the state, `join_sets` reads several shard sets
as one, `load_or_make_plan` shares plans between processes, `summarize_plan` counts.

Knows the format of shards. Must not know bytes of samples, pixels or torch.
"""
