"""The Qwen-VL tower against an independent port of the public code, and its import."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch.nn import functional

from vchat.model.towers.import_qwen_vl import read_qwen_vl_tower
from vchat.model.towers.qwen_vl import QwenVLVisual, QwenVLVisualConfig
from vchat.train.commands.import_tower import command
from vchat.train.engine.starting_model import load_tower

WIDTH, HEADS, HIDDEN, QUERIES, PATCH = 24, 3, 16, 9, 4
CONFIG = QwenVLVisualConfig(
    image_size=16,
    patch_size=PATCH,
    num_table_positions=4,
    patch_width=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    intermediate_size=40,
    num_queries=QUERIES,
    hidden_size=HIDDEN,
    resampler_head_width=HIDDEN,
)


def random_tower():
    torch.manual_seed(0)
    tower = QwenVLVisual(CONFIG).eval()
    for parameter in tower.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return tower


def port(weights, pixels):
    """Compute the published forward pass with numpy-like steps, sequence first, head by head."""

    def norm(x, name):
        return functional.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6
        )

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def positions(table, number):
        old, new = math.isqrt(len(table)), math.isqrt(number)
        if old == new:
            return table
        square = table.reshape(1, old, old, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(square, (new, new), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).flatten(0, 2)

    rows = []
    for y in range(0, pixels.shape[2], PATCH):
        for x in range(0, pixels.shape[3], PATCH):
            patch = pixels[:, :, y : y + PATCH, x : x + PATCH]
            rows.append(torch.einsum("nchw,dchw->nd", patch, weights["conv1.weight"]))
    x = torch.stack(rows)  # [P, N, width]
    x = x + positions(weights["positional_embedding"], len(x))[:, None]
    x = norm(x, "ln_pre")
    for layer in range(2):
        name = f"transformer.resblocks.{layer}"
        mapped = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.in_proj")
        size = WIDTH // HEADS
        outs = []
        for head in range(HEADS):
            first = head * 3 * size
            q, k, v = mapped[..., first : first + 3 * size].split(size, dim=-1)
            scores = torch.einsum("qnd,knd->nqk", q / math.sqrt(size), k).softmax(dim=-1)
            outs.append(torch.einsum("nqk,knd->qnd", scores, v))
        x = x + linear(torch.cat(outs, dim=-1), f"{name}.attn.out_proj")
        inner = functional.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
        x = x + linear(inner, f"{name}.mlp.c_proj")
    return resampled(x, weights, norm, positions)


def resampled(x, weights, norm, positions):
    values = norm(x @ weights["attn_pool.kv_proj.weight"].T, "attn_pool.ln_kv")
    grid = published_grid(HIDDEN, math.isqrt(QUERIES))
    queries = norm(weights["attn_pool.query"], "attn_pool.ln_q") + grid
    keys = values + positions(grid, len(values))[:, None]
    in_q, in_k, in_v = weights["attn_pool.attn.in_proj_weight"].chunk(3)
    bias_q, bias_k, bias_v = weights["attn_pool.attn.in_proj_bias"].chunk(3)
    q, k, v = queries @ in_q.T + bias_q, keys @ in_k.T + bias_k, values @ in_v.T + bias_v
    scores = (torch.einsum("qd,pnd->nqp", q, k) / math.sqrt(HIDDEN)).softmax(dim=-1)
    gathered = torch.einsum("nqp,pnd->nqd", scores, v)
    out = gathered @ weights["attn_pool.attn.out_proj.weight"].T
    out = out + weights["attn_pool.attn.out_proj.bias"]
    return norm(out, "ln_post") @ weights["proj"]


def published_grid(width, side):
    """Return the grid's sines and cosines, columns in the first half, as the public code has it."""
    columns, rows = np.meshgrid(
        np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)
    )
    halves = []
    for coordinate in (columns, rows):
        omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float32) / (width / 4))
        angles = np.einsum("m,d->md", coordinate.reshape(-1), omega)
        halves.append(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
    return torch.tensor(np.concatenate(halves, axis=1))


@pytest.mark.parametrize("image_size", [8, 16, 24])
def test_the_tower_equals_a_port_of_the_public_code_at_any_size(image_size):
    tower = random_tower()
    pixels = torch.randn(2, 3, image_size, image_size)
    weights = dict(tower.state_dict())
    ours = tower(pixels).last_hidden_state
    assert ours.shape == (2, QUERIES, HIDDEN)
    torch.testing.assert_close(ours, port(weights, pixels), atol=2e-5, rtol=1e-4)


def write_checkpoint(folder, weights, *, file="model-00001-of-00001.safetensors", prefix=True):
    """Write weights as Qwen-VL's folder has them, beside some of its language model's."""
    before = "transformer.visual." if prefix else ""
    whole = {f"{before}{name}": value.clone() for name, value in weights.items()}
    if prefix:
        whole |= {name: torch.zeros(2) for name in ("transformer.wte.weight", "lm_head.weight")}
        whole["transformer.h.0.attn.c_attn.weight"] = torch.zeros(2)
    folder.mkdir()
    if file.endswith(".bin"):
        torch.save(whole, folder / file)
    else:
        save_file(whole, folder / file)
        index = {"weight_map": dict.fromkeys(whole, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(
        json.dumps({"visual": {"image_size": 16, "heads": HEADS}, "model_type": "qwen"})
    )
    return folder


@pytest.mark.parametrize(
    "file, prefix",
    [("a.safetensors", True), ("pytorch_model.bin", True), ("pytorch_model.bin", False)],
)
def test_an_imported_tower_gives_the_same_features(tmp_path, file, prefix):
    tower = random_tower()
    folder = write_checkpoint(tmp_path / "qwen", tower.state_dict(), file=file, prefix=prefix)
    # Heads of a resampler 128 wide cannot be read off weights this small.
    imported = read_qwen_vl_tower(folder, resampler_head_width=HIDDEN)
    assert imported.num_of_language_model == (3 if prefix else 0)
    assert imported.num_loaded == len(tower.state_dict())
    pixels = torch.randn(1, 3, 16, 16)
    found = imported.tower.eval()(pixels).last_hidden_state
    torch.testing.assert_close(found, tower(pixels).last_hidden_state)


def test_a_key_that_nobody_knows_stops_the_import(tmp_path):
    weights = random_tower().state_dict()
    folder = write_checkpoint(tmp_path / "qwen", weights, file="pytorch_model.bin")
    whole = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**whole, "transformer.audio.w": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"1 keys are unknown in Qwen-VL, such as 'transformer.aud"
    ):
        read_qwen_vl_tower(folder)


@pytest.mark.parametrize("missing", ["proj", "transformer.resblocks.1.attn.out_proj.bias"])
def test_a_missing_key_stops_the_import_and_is_named(tmp_path, missing):
    weights = random_tower().state_dict()
    del weights[missing]
    folder = write_checkpoint(tmp_path / "qwen", weights, file="pytorch_model.bin")
    with pytest.raises(ValueError, match=missing):
        read_qwen_vl_tower(folder, resampler_head_width=HIDDEN)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"proj": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not a file of weights"):
        read_qwen_vl_tower(tmp_path)


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path):
    index = {"weight_map": {"proj": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        read_qwen_vl_tower(tmp_path)


def test_the_command_writes_a_folder_that_a_run_can_name(tmp_path):
    config = QwenVLVisualConfig(
        **{**CONFIG.to_dict(), "hidden_size": 128, "resampler_head_width": 128}
    )
    tower = QwenVLVisual(config).eval()
    source, out = write_checkpoint(tmp_path / "qwen", tower.state_dict()), tmp_path / "tower"
    done = CliRunner().invoke(command, ["qwen-vl", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 of the language model left; 16 pixels to 9 features of width 128" in done.output
    loaded = load_tower(str(out)).eval()
    pixels = torch.randn(1, 3, 16, 16)
    expected = tower(pixels).last_hidden_state
    torch.testing.assert_close(loaded(pixels).last_hidden_state, expected)
