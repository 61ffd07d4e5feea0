#!/usr/bin/env python3
"""Small SAM image encoders with everything random, run by transformers, for tests/parity.

Each case is a folder sam_<name>/ as `save_pretrained` writes it, with in.safetensors
(`pixel_values`) and ref.safetensors: what SamVisionModel, or the vision encoder of SamModel,
returns in float32 with eager attention: `hidden_states.<i>` (B,h,w,D) and `last_hidden_state`
(B,C,h,w).

Beside it, in some folders:
- size_<H>x<W>.safetensors: the same for images of another size, which the class refuses. Its tables
  are resized here, in float64 from the formulas, and put into the class: positions bicubic (Keys'
  kernel with a = -0.75, coordinates s = (o + 1/2) N/O - 1/2, border repeated), relative positions
  of the global blocks linear to 2h-1 and 2w-1 rows (s clamped at 0).
- grad.safetensors: `pixel_values`, `cotangent`, and d sum(last_hidden_state * cotangent) by the
  pixels (`d.pixel_values`) and by some early weights (`d.<key in the file>`).

    python scripts/make_sam_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import SamConfig, SamModel, SamVisionConfig, SamVisionModel

from make_dinov2_fixtures import randomise


def randomise_sam(model, seed, embedding_scale=1.0):
    randomise(model, seed, embedding_scale)
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # tables: of the size of what they are added to
        for name, p in sorted(model.named_parameters()):
            if name.endswith("pos_embed"):
                p.copy_(0.6 * embedding_scale * torch.randn(p.shape, generator=g))
            elif "rel_pos" in name:
                p.copy_(0.5 * torch.randn(p.shape, generator=g))


def load(folder):
    """The vision encoder of a folder, in float32, eager."""
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(folder,
                                      dtype=torch.float32,
                                      attn_implementation="eager",
                                      output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval().vision_encoder


def named(out):
    all = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    all["last_hidden_state"] = out.last_hidden_state
    return {k: v.detach().clone().contiguous() for k, v in all.items()}


def reference(folder, pixels):
    with torch.no_grad():
        return named(load(folder)(pixels, output_hidden_states=True))


# ---- other sizes: the formulas
def keys_kernel(x, a=-0.75):
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(n, o):
    m = np.zeros((o, n))
    for i in range(o):
        s = (i + 0.5) * n / o - 0.5
        first = int(np.floor(s))
        for tap in range(first - 1, first + 3):
            m[i, min(max(tap, 0), n - 1)] += keys_kernel(s - tap)
    return m


def linear_matrix(n, o):
    m = np.zeros((o, n))
    for i in range(o):
        s = max(0.0, (i + 0.5) * n / o - 0.5)
        first = int(s)
        m[i, first] += 1 - (s - first)
        m[i, min(first + 1, n - 1)] += s - first
    return m


def reference_of_size(folder, pixels):
    encoder = load(folder)
    p = encoder.config.patch_size
    h, w = pixels.shape[2] // p, pixels.shape[3] // p
    parameter = lambda a: torch.nn.Parameter(torch.tensor(a, dtype=torch.float32))
    if encoder.pos_embed is not None:
        table = encoder.pos_embed.detach().double().numpy()[0]
        table = np.einsum("oy,yxd->oxd", bicubic_matrix(table.shape[0], h), table)
        table = np.einsum("ox,yxd->yod", bicubic_matrix(table.shape[1], w), table)
        encoder.pos_embed = parameter(table[None])
    for layer in encoder.layers:
        if layer.window_size or not encoder.config.use_rel_pos:
            continue
        for name, side in (("rel_pos_h", h), ("rel_pos_w", w)):
            table = getattr(layer.attn, name).detach().double().numpy()
            setattr(layer.attn, name, parameter(linear_matrix(len(table), 2 * side - 1) @ table))
    encoder.patch_embed.image_size = tuple(pixels.shape[2:])
    with torch.no_grad():
        return named(encoder(pixels, output_hidden_states=True))


def gradients(folder, pixels, g):
    encoder = load(folder)
    pixels = pixels.clone().requires_grad_()
    out = encoder(pixels).last_hidden_state
    cotangent = torch.randn(out.shape, generator=g)
    (out * cotangent).sum().backward()
    parameters = dict(encoder.named_parameters())
    result = {"pixel_values": pixels.detach(), "cotangent": cotangent, "d.pixel_values": pixels.grad}
    for key in ("patch_embed.projection.weight", "pos_embed", "layers.0.attn.rel_pos_h",
                "layers.0.attn.rel_pos_w", "layers.0.attn.qkv.bias", "layers.1.attn.rel_pos_w"):
        result["d.vision_encoder." + key] = parameters[key].grad
    return {k: v.clone().contiguous() for k, v in result.items()}


# name: fields of the vision config, and what is made with it. A grid of 5 with windows of 3: the
# last window of a row holds two tokens a row, padding the rest.
SMALL = dict(hidden_size=24,
             output_channels=10,
             num_hidden_layers=3,
             num_attention_heads=3,
             image_size=20,
             patch_size=4,
             window_size=3,
             global_attn_indexes=[1])
CASES = {
    "plain": (SMALL, dict(sizes=[(12, 12), (28, 28), (16, 36), (22, 15)], gradients=True)),
    "window0": (dict(SMALL, window_size=0, global_attn_indexes=[]), dict(sizes=[(24, 12)])),
    "wide_window": (dict(SMALL, window_size=14, global_attn_indexes=[0, 99]), {}),
    "even": (dict(SMALL, image_size=24, num_channels=5), {}),
    "head80": (dict(SMALL, hidden_size=80, num_attention_heads=1, num_hidden_layers=1, mlp_dim=20,
                    patch_size=5, global_attn_indexes=[]), {}),
    "no_rel_pos": (dict(SMALL, use_rel_pos=False), dict(sizes=[(12, 20)])),
    "no_abs_pos": (dict(SMALL, use_abs_pos=False, mlp_ratio=2.5), dict(sizes=[(12, 20)])),
    "no_qkv_bias": (dict(SMALL, qkv_bias=False, layer_norm_eps=1e-2, hidden_act="relu"), {}),
    "bf16": (dict(SMALL, num_hidden_layers=2), dict(dtype=torch.bfloat16)),
    # Only what differs from the defaults is in config.json; small activations make eps count.
    "sparse_config": (dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=3,
                           image_size=48, num_channels=2, output_channels=6), dict(sparse=True,
                                                                  embedding_scale=0.005)),
    "full": (SMALL, dict(full=True)),
}


def make(name, folder):
    fields, how = CASES[name]
    seed = zlib.crc32(name.encode())
    if how.get("full"):
        config = SamConfig(vision_config=fields,
                           prompt_encoder_config=dict(hidden_size=8,
                                                      image_size=20,
                                                      patch_size=4,
                                                      mask_input_channels=4),
                           mask_decoder_config=dict(hidden_size=8,
                                                    mlp_dim=8,
                                                    num_hidden_layers=1,
                                                    num_attention_heads=2,
                                                    iou_head_hidden_dim=8))
        model = SamModel(config)
    else:
        model = SamVisionModel(SamVisionConfig(**fields))
    randomise_sam(model.eval(), seed, how.get("embedding_scale", 1.0))
    model = model.to(how.get("dtype", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if how.get("sparse"):
        keep = dict(fields, model_type="sam_vision_model", architectures=["SamVisionModel"])
        (folder / "config.json").write_text(json.dumps(keep, indent=2, sort_keys=True) + "\n")
    g = torch.Generator().manual_seed(seed + 2)
    side, channels = fields["image_size"], fields.get("num_channels", 3)
    pixels = torch.randn(2, channels, side, side, generator=g)
    save_file({"pixel_values": pixels}, folder / "in.safetensors")
    save_file(reference(folder, pixels), folder / "ref.safetensors")
    for h, w in how.get("sizes", []):
        pixels = torch.randn(1, channels, h, w, generator=g)
        save_file(dict(reference_of_size(folder, pixels), pixel_values=pixels),
                  folder / f"size_{h}x{w}.safetensors")
    if how.get("gradients"):
        pixels = torch.randn(2, channels, side, side, generator=g)
        save_file(gradients(folder, pixels, g), folder / "grad.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in CASES:
        folder = out / f"sam_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
