"""The training loop, in the order things happen.

The loss of a step is the sum of cross entropy over the supervised tokens of its global batch,
divided by their number N, which the epoch plan knows in advance. So it is the same for any world
size, micro-batch and accumulation.
"""

from __future__ import annotations

from collections.abc import Callable

import deepspeed
import torch.distributed as dist

from vchat.train.config.run import OptimizerConfig, OutputConfig
from vchat.train.engine.engine import add_gradients, set_learning_rate
from vchat.train.engine.processes import StopRequest
from vchat.train.logs.log import TrainingLog, progress_text
from vchat.train.run.data import RunData
from vchat.train.run.heldout import measure_heldout_loss
from vchat.train.run.schedule import learning_rate
from vchat.train.run.speed import SpeedMeter
from vchat.train.step.bad_loss import LossLimit, compute_loss, stop_if_bad
from vchat.train.step.out_of_memory import explain_out_of_memory
from vchat.train.step.skipped_updates import SkippedUpdates, explain_lowest_scale
from vchat.train.step.tally import StepTally
from vchat.train.step.watchdog import watchdog


def train(
    engine: deepspeed.DeepSpeedEngine,
    data: RunData,
    *,
    run: OutputConfig,
    optimizer: OptimizerConfig,
    log: TrainingLog,
    limit: LossLimit,
    skipped: SkippedUpdates,
    stop: StopRequest,
    speed: SpeedMeter,
    save: Callable[[int], None],
) -> int:
    """Train from the step after `data.steps_done` to the last, or until a signal asks to stop.

    Args:
        skipped: counts the steps without an update.
        speed: measures the operations of a step.
        save: writes the checkpoint of the step it is given; all ranks call it together.

    Returns:
        The last step made. It is saved.
    """
    last = data.total_steps
    with watchdog(run.hang_timeout_s, rank=dist.get_rank()) as restart_timer:
        for step in range(data.steps_done + 1, last + 1):
            restart_timer(step)
            rate = learning_rate(step, total_steps=last, optimizer=optimizer)
            set_learning_rate(engine, rate)
            tally = StepTally(data.sources)
            for batch in tally.time_waits(data.read_step()):
                with explain_out_of_memory(batch, step=step):
                    loss = compute_loss(engine, batch, limit=limit, tally=tally)
                    weight = loss_weight(engine, batch.supervised_of_step)
                    add_gradients(engine, loss.loss_sum * weight)
                with explain_lowest_scale(step):
                    engine.step()  # DeepSpeed updates the weights on the last micro-batch only
                tally.add(batch, loss)
            epoch, rows = data.loader.epoch, data.count_rows_of_step()
            data.finish_step()
            totals = tally.sum_over_ranks(engine.device, stop=stop.is_requested)
            stop_if_bad(totals.loss, step, limit=limit, tally=tally)
            limit.remember(totals.loss)

            values = totals.log_values() | speed.measure(totals)
            values |= skipped.count_step(engine, rows=rows)
            values |= {"lr": rate, "epoch": epoch, "processes": engine.world_size}
            if is_due(step, run.eval_every, last=last) and not totals.stop:
                values |= measure_heldout_loss(engine, data).log_values()
            if step % run.log_every == 0 or "eval_loss" in values or step == last:
                log.write(step, **values, **data.reading_costs())
            log.show(step, progress_text(values))
            skipped.stop_if_stuck(step)
            if is_due(step, run.save_every, last=last) or totals.stop:
                save(step)
            if totals.stop:
                return step
    return last


def loss_weight(engine: deepspeed.DeepSpeedEngine, num_supervised: int) -> float:
    """Return the factor of a micro-batch's summed loss before `add_gradients`.

    DeepSpeed divides by the accumulation steps and averages gradients over ranks; this undoes
    both and divides by the supervised tokens of the whole step.
    """
    scale: int = engine.world_size * engine.gradient_accumulation_steps()
    return scale / max(1, num_supervised)


def is_due(step: int, every: int, *, last: int) -> bool:
    """Whether a step is one of every `every` steps or the last one; never if `every` is 0."""
    return every > 0 and (step % every == 0 or step == last)
