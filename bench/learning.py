r"""Does a model learn better with MMCA or with plain causal attention? On the drawn sample world.

The shipped run `tiny.toml`, one process and one thread, once per attention and seed; the seed moves
the weights and the order of the samples, both attentions get the same. Held-out loss is measured
along the way and the held-out questions are asked at the end. CPU seconds are those of training
steps, without evaluation and start-up. A run that is finished in OUT is not made again.

    python bench/learning.py --images 8000 --steps 1000 --seeds 0 1 2 \
        --out build/learning --docs docs

renews `docs/learning.md` and `docs/learning.png`. Without arguments: a short try, nothing written
but OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(sys.executable).parent
ATTENTIONS = ("mmca", "causal")
EVALUATIONS = 10
COLORS = {"mmca": "tab:blue", "causal": "tab:orange"}


def main() -> None:
    """Make the runs that are missing, print the table, and renew the document if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500, help="pictures of the sample world")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("build/learning-try"))
    parser.add_argument("--finished", action="store_true", help="of runs in OUT; make none")
    parser.add_argument("--docs", type=Path, help="folder of learning.md and learning.png")
    parser.add_argument("--one", choices=ATTENTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train_one(arguments.out, arguments.one, steps=arguments.steps, seed=arguments.seeds[0])
        return
    if not arguments.finished:
        prepare_world(arguments.out, images=arguments.images)
        for seed in arguments.seeds:
            for attention in ATTENTIONS:
                run_one(arguments.out, attention, steps=arguments.steps, seed=seed)
    results = {
        attention: {
            seed: read_result(arguments.out, attention, seed)
            for seed in arguments.seeds
            if (arguments.out / f"{attention}-{seed}" / "answers" / "answers.json").is_file()
        }
        for attention in ATTENTIONS
    }
    lines = table(results)
    print("\n".join(lines))
    if arguments.docs:
        write_document(arguments.docs, lines, results, arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run came to."""

    steps: list[int]
    """Where the held-out loss was measured."""

    cpu_s: list[float]
    """CPU seconds of training up to there."""

    losses: list[float]
    """Held-out loss there."""

    accuracy: dict[str, float]
    """Share of held-out questions answered right, by group, at the end."""


def prepare_world(out: Path, *, images: int) -> None:
    """Draw the sample world and build its shards, as `make demo` does, if they are not there."""
    if (out / "shards" / "manifest.json").is_file():
        return
    data = str(out / "data")
    call("vchat-prep", "sample-data", "--out", data, "--images", str(images), "--seed", "1")
    call(
        *("vchat-prep", "build", "--recipe", "tiny", "--data", data),
        *("--tokenizer", f"{data}/tokenizer", "--out", str(out / "shards")),
    )


def run_one(out: Path, attention: str, *, steps: int, seed: int) -> None:
    """Train in a process of its own, then ask the held-out questions, unless done before."""
    run = out / f"{attention}-{seed}"
    if not (run / "curve.json").is_file():
        command = [sys.executable, __file__, "--one", attention, "--out", str(out)]
        subprocess.run(
            [*command, "--steps", str(steps), "--seeds", str(seed)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if not (run / "answers" / "answers.json").is_file():
        call(
            *("vchat-train", "eval", "--checkpoint", str(run)),
            *("--questions", str(out / "data" / "eval.json"), "--out", str(run / "answers")),
        )


def call(command: str, *arguments: str) -> None:
    """Run one of our commands on one thread, its table unseen."""
    subprocess.run(
        [BIN / command, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


class Curve:
    """Stands in for the log of a run: held-out losses, and CPU seconds of the training steps."""

    def __init__(self) -> None:
        """The clock starts with the first step."""
        self.points: list[tuple[int, float]] = []
        self.step_s: list[float] = []
        self._evaluated = False
        self._shown_at = time.process_time()

    def write(self, step: int, *, eval_loss: float | None = None, **_: object) -> None:
        """Note a held-out loss; its step counts as long as the median one."""
        if eval_loss is not None:
            self.points.append((step, eval_loss))
            self._evaluated = True

    def show(self, step: int, text: str) -> None:
        """Note how long the step took, if nothing was evaluated in it."""
        now = time.process_time()
        if not self._evaluated:
            self.step_s.append(now - self._shown_at)
        self._shown_at, self._evaluated = now, False
        if step % 100 == 0:
            print(f"step {step}: {text}", file=sys.stderr)


def train_one(out: Path, attention: str, *, steps: int, seed: int) -> None:
    """Run the training loop of `vchat-train run` with a log that measures CPU time."""
    from vchat.train.engine.processes import disconnect_processes, prepare_environment

    prepare_environment()
    from vchat.train.checkpoints.background import Background
    from vchat.train.config.run import find_run_file, read_run
    from vchat.train.engine.processes import RankShare, StopRequest, connect_processes
    from vchat.train.run.loop import train
    from vchat.train.run.prepare import prepare_run
    from vchat.train.run.speed import build_speed_meter

    run = out / f"{attention}-{seed}"
    settings = {
        "data.shards": out / "shards",
        "model.attention": attention,
        "run.out": run,
        "run.seed": seed,
        "run.steps": steps,
        "run.eval_every": max(1, steps // EVALUATIONS),
        "run.save_every": steps,
    }
    config = read_run(
        find_run_file(Path("tiny.toml")),
        overrides=[f"{key}={value}" for key, value in settings.items()],
    )
    curve = Curve()
    with StopRequest() as stop, Background() as background:
        rank, world_size = connect_processes()
        share = RankShare(rank=rank, world_size=world_size)
        run_state = prepare_run(config, share, background=background)
        train(
            run_state.engine,
            run_state.data,
            run=config.run,
            optimizer=config.optimizer,
            log=curve,
            limit=run_state.limit,
            skipped=run_state.skipped,
            stop=stop,
            speed=build_speed_meter(
                run_state.engine.module, run_state.data, gpu_tflops=None, world_size=world_size
            ),
            save=run_state.save,
        )
    seconds = statistics.median(curve.step_s)
    (run / "curve.json").write_text(json.dumps({"points": curve.points, "step_s": seconds}))
    disconnect_processes()


def read_result(out: Path, attention: str, seed: int) -> Result:
    """Read what a finished run left."""
    run = out / f"{attention}-{seed}"
    curve = json.loads((run / "curve.json").read_text())
    scores = json.loads((run / "answers" / "answers.json").read_text())["scores"]["as-is"]
    steps, losses = zip(*curve["points"], strict=True)
    return Result(
        steps=list(steps),
        cpu_s=[step * curve["step_s"] for step in steps],
        losses=list(losses),
        accuracy={one["group"]: one["accuracy"] for one in scores},
    )


def table(results: dict[str, dict[int, Result]]) -> list[str]:
    """Return a Markdown table: one row per measure, mean and range over seeds."""
    seconds = min(result.cpu_s[-1] for runs in results.values() for result in runs.values())
    rows: list[tuple[str, Any]] = [
        ("held-out loss after all steps", lambda r: r.losses[-1]),
        (f"held-out loss after {seconds:.0f} CPU s", lambda r: loss_at(r, seconds)),
        ("CPU ms per step", lambda r: 1e3 * r.cpu_s[-1] / r.steps[-1]),
        ("single-image questions right, %", lambda r: 100 * r.accuracy["single-image"]),
        ("two-image questions right, %", lambda r: 100 * r.accuracy["two-image"]),
    ]
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for name, measure in rows:
        cells = [spread([measure(result) for result in runs.values()]) for runs in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def loss_at(result: Result, cpu_s: float) -> float:
    """Return the held-out loss at a time, on the line between its neighbours."""
    return float(np.interp(cpu_s, result.cpu_s, result.losses))


def spread(values: Sequence[float]) -> str:
    """Return mean and range in four digits."""
    return f"{statistics.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def write_document(
    folder: Path,
    lines: list[str],
    results: dict[str, dict[int, Result]],
    arguments: argparse.Namespace,
) -> None:
    """Write the plot, and the table between its marks in the document."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "learning.png", results)
    page = folder / "learning.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end of table -->")
    seeds = "; ".join(f"{name} {', '.join(map(str, runs))}" for name, runs in results.items())
    made = f"{arguments.steps} steps; mean (range) over the seeds of {seeds}:"
    text = "\n".join([made, "", *lines, "", ""])
    page.write_text(f"{head}<!-- table -->\n{text}<!-- end of table -->{tail}", encoding="utf-8")


def draw(path: Path, results: dict[str, dict[int, Result]]) -> None:
    """Draw held-out loss against steps and against CPU time, one line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
    for attention, runs in results.items():
        for number, result in enumerate(runs.values()):
            label = attention if number == 0 else None
            style = {"color": COLORS[attention], "alpha": 0.8, "linewidth": 1.2, "label": label}
            axes[0].plot(result.steps, result.losses, **style)
            axes[1].plot(result.cpu_s, result.losses, **style)
    for axis, name in zip(axes, ("optimizer steps", "CPU seconds of training"), strict=True):
        axis.set_xlabel(name)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out loss")
    axes[0].legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
