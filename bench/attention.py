"""How fast is MMCA in a whole small decoder, against plain causal attention and two dense forms?

One row, half of its positions images of 257 positions each, text spread evenly around them. From
embeddings to the summed loss over all text positions; weights frozen, gradient to the embeddings.
Times are medians of interleaved runs, in CPU seconds of one thread (on a GPU in seconds). Peak
memory is the growth of the resident set in a process of its own.

    mmca     ours, through VisualChat
    causal   the library's own decoder with SDPA, the time to beat
    masks    MMCA as two SDPA calls with boolean S x S masks
    dense    MMCA as two softmaxes over dense scores, like the published code

Run `python bench/attention.py --help` for sizes and repetitions.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from vchat.model.visual_chat import VisualChat

FORMS = ("mmca", "causal", "masks", "dense")
PER_IMAGE = 257
SLOT = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Print one line per length, dtype and direction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dense-up-to", type=int, default=4096, help="positions; 0 is never")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--one", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        print(peak_growth(arguments))
        return
    for dtype in arguments.dtypes:
        for length in arguments.lengths:
            forms = [f for f in arguments.forms if f != "dense" or length <= arguments.dense_up_to]
            compare(forms, length, dtype, arguments)


def compare(forms: list[str], length: int, dtype: str, arguments: argparse.Namespace) -> None:
    """Time the forms in turns and print medians and ratios."""
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    jobs = {form: job_of(form, length, dtype, arguments.device) for form in forms}
    peaks = {f: peak_of(f, length, dtype) for f in forms} if arguments.memory else {}
    for backward in (False, True):
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        for repetition in range(arguments.repetitions + 1):
            for form, job in jobs.items():
                start = clock()
                job(backward)
                if repetition > 0:  # the first round warms up
                    seconds[form].append(clock() - start)
        medians = {form: statistics.median(times) for form, times in seconds.items()}
        cells = [f"{f} {s:.4f} s ({s / medians[forms[0]]:.2f}x)" for f, s in medians.items()]
        cells += [f"{f} {peak:.0f} MB" for f, peak in peaks.items() if backward]
        direction = "fwd+bwd" if backward else "fwd"
        print(f"{dtype} {length:5d} {direction:7s} ", "  ".join(cells), flush=True)


def job_of(form: str, length: int, dtype: str, device: str) -> Callable[[bool], None]:
    """Return a function that runs one form forward, and backward if its argument is true."""
    torch.manual_seed(0)
    ids = torch.tensor([row_of(length)], device=device)
    labels = ids.masked_fill(ids == SLOT, -100)
    model = VisualChat.from_parts(
        tower=tiny_tower(), decoder=small_decoder(), image_token_id=SLOT, num_ids=SLOT + 1
    )
    model = model.to(device, DTYPES[dtype]).requires_grad_(False)
    embeddings = torch.randn(1, len(ids[0]), 256, device=device).to(DTYPES[dtype])

    def run(backward: bool) -> None:
        leaf = embeddings.clone().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            if form == "mmca":
                loss = model(ids, inputs_embeds=leaf, labels=labels).loss
            else:
                loss = plain_loss(model, leaf, labels, form, ids == SLOT)
            if backward:
                loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def row_of(length: int) -> list[int]:
    """Return ids of a row: n images, and as many text positions, spread around the images."""
    images = max(1, length // 2 // PER_IMAGE)
    text = length - images * PER_IMAGE
    bounds = [text * i // (images + 1) for i in range(images + 2)]
    row: list[int] = []
    for start, end in itertools.pairwise(bounds):
        row += [i % SLOT for i in range(start, end)] + [SLOT] * PER_IMAGE
    return row[:length]


def small_decoder() -> LlamaForCausalLM:
    """The decoder of all comparisons: width 256, 4 layers, 8 heads."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SLOT,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=16384,
        )
    )


def tiny_tower() -> CLIPVisionModel:
    """A tower that no comparison calls."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    return CLIPVisionModel(
        CLIPVisionConfig(**sizes, num_hidden_layers=1, image_size=16, patch_size=8)
    )


def plain_loss(
    model: VisualChat, embeddings: Tensor, labels: Tensor, form: str, is_image: Tensor
) -> Tensor:
    """Run the library's decoder as it is, with one of the other forms, and the same loss."""
    name = "sdpa" if form == "causal" else form
    model.decoder.set_attn_implementation(name)
    extra = {} if form == "causal" else {"masks": dense_masks(is_image)}
    hidden = model.decoder.model(inputs_embeds=embeddings, use_cache=False, **extra)[0][0, :-1]
    targets = labels[0, 1:]
    loss: Tensor = model.summed_cross_entropy(
        hidden[targets >= 0], model.decoder.lm_head, targets[targets >= 0]
    )
    return loss


def dense_masks(is_image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the text and image keys each query sees, both bool[1, 1, S, S].

    An image sees itself.
    """
    length = is_image.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=is_image.device).tril()
    text_query = ~is_image[:, None, :, None]
    key = is_image[:, None, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=is_image.device)
    return causal & text_query & ~key, ((causal & text_query) | itself) & key


def attend_masks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    masks: tuple[Tensor, Tensor],
    **_: object,
) -> tuple[Tensor, None]:
    """MMCA as two SDPA calls with boolean masks."""
    text, image = (
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        for mask in masks
    )
    return (text.nan_to_num() + image.nan_to_num()).transpose(1, 2), None


def attend_dense(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    masks: tuple[Tensor, Tensor],
    **_: object,
) -> tuple[Tensor, None]:
    """MMCA as two softmaxes over all scores."""
    scores = (query @ key.transpose(2, 3)).float() * scaling
    weights = [
        scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0) for mask in masks
    ]
    output = (weights[0] + weights[1]).to(value.dtype) @ value
    return output.transpose(1, 2), None


AttentionInterface.register("masks", attend_masks)
AttentionInterface.register("dense", attend_dense)
for _name in ("masks", "dense"):
    AttentionMaskInterface.register(_name, lambda *_, **__: None)


def peak_of(form: str, length: int, dtype: str) -> float:
    """Return the peak memory of one forward and backward pass in MB, in a process of its own."""
    command = [sys.executable, __file__, "--one", form, "--lengths", str(length)]
    command += ["--dtypes", dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_growth(arguments: argparse.Namespace) -> float:
    """Return by how many MB one pass raises this process's resident set."""
    job = job_of(arguments.one, arguments.lengths[0], arguments.dtypes[0], "cpu")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    job(True)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin at the parent's size
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    return (peak - pages * os.sysconf("SC_PAGE_SIZE")) / 1e6


if __name__ == "__main__":
    main()
