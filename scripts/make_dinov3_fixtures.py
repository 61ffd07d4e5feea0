#!/usr/bin/env python3
"""Small DINOv3 models with everything random, run by transformers, for tests/parity.

Folders dinov3_<name>/ as make_dinov2_fixtures.py describes them. dinov3_plain/ has, beside them,
grad.safetensors: `pixel_values`, `cotangent`, and the gradients of
sum(last_hidden_state * cotangent) with respect to the pixels and some early weights, computed in
double, as `d.pixel_values` and `d.<key of the file>`; and attentions.safetensors, the maps of every
block for in_wide.safetensors, as `blocks.<i>.attn.weights` (B,heads,N,N).

    python scripts/make_dinov3_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from make_dinov2_fixtures import randomise, reference

SMALL = dict(hidden_size=24,
             intermediate_size=44,
             num_hidden_layers=3,
             num_attention_heads=3,
             image_size=28,
             patch_size=7,
             num_register_tokens=4)
TINY = dict(hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            num_register_tokens=1)
ODD = {"": (16, 16), "wide": (12, 27)}
# name: config, image sizes by tag ("" is in.safetensors), and how it is stored
CASES = {
    "plain": (SMALL, {
        "": (28, 28), "large": (49, 49), "small": (7, 14), "wide": (21, 42), "remainder": (34, 45)
    }, dict(gradients=True)),
    # Heads of 20: five periods, and rows that no vector divides.
    "head20": (dict(TINY, hidden_size=40, num_hidden_layers=1), ODD, {}),
    "gated": (dict(TINY, use_gated_mlp=True, hidden_act="silu", num_channels=5), ODD, {}),
    "gated_gelu": (dict(TINY, use_gated_mlp=True, intermediate_size=19), ODD, {}),
    "no_bias": (dict(TINY, query_bias=False, value_bias=False, proj_bias=False,
                     mlp_bias=False), ODD, {}),
    "gated_no_bias": (dict(TINY, use_gated_mlp=True, query_bias=False, value_bias=False,
                           proj_bias=False, mlp_bias=False), ODD, {}),
    "all_bias": (dict(TINY, key_bias=True), ODD, {}),
    "key_bias_alone": (dict(TINY, query_bias=False, key_bias=True, value_bias=False), ODD, {}),
    "value_bias_alone": (dict(TINY, query_bias=False), ODD, {}),
    "theta": (dict(TINY, rope_theta=30.0, hidden_act="quick_gelu", layer_norm_eps=1e-2), ODD, {}),
    "bf16": (TINY, ODD, dict(dtype=torch.bfloat16)),
    "f16": (TINY, ODD, dict(dtype=torch.float16)),
    "sharded": (dict(TINY, num_hidden_layers=3), ODD, dict(shard="8KB")),
    # Only what differs from the defaults is left in config.json: no registers, patches of 16; small
    # activations make eps count.
    "sparse_config": (dict(hidden_size=24, intermediate_size=20, num_hidden_layers=2), {
        "": (32, 32), "wide": (16, 55)
    }, dict(sparse=True, embedding_scale=0.005)),
}


def gradients(folder, pixels, g):
    """Named tensors: a cotangent of last_hidden_state and the gradients it pulls back."""
    model = DINOv3ViTModel.from_pretrained(folder, dtype=torch.float64,
                                           attn_implementation="eager").eval()
    leaf = pixels.double().requires_grad_()
    last = model(leaf).last_hidden_state
    cotangent = torch.randn(last.shape, generator=g)
    (last * cotangent.double()).sum().backward()
    p = dict(model.named_parameters())
    # In memory the layers may have a prefix that the file's keys do not have.
    find = lambda key: next(v for k, v in p.items() if k.endswith(key))
    named = {"pixel_values": pixels, "cotangent": cotangent, "d.pixel_values": leaf.grad}
    for key in ("embeddings.patch_embeddings.weight", "embeddings.register_tokens",
                "layer.0.attention.q_proj.bias", "layer.0.attention.k_proj.weight",
                "layer.0.mlp.up_proj.weight", "layer.1.layer_scale1.lambda1"):
        named["d." + key] = find(key).grad
    return {k: v.float().contiguous() for k, v in named.items()}


def attentions(folder, pixels):
    model = DINOv3ViTModel.from_pretrained(folder, dtype=torch.float32,
                                           attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(pixels, output_attentions=True)
    return {f"blocks.{i}.attn.weights": a.clone().contiguous()
            for i, a in enumerate(out.attentions)}


def make(name, folder):
    fields, sizes, how = CASES[name]
    seed = zlib.crc32(name.encode())
    model = DINOv3ViTModel(DINOv3ViTConfig(**fields)).eval()
    randomise(model, seed, how.get("embedding_scale", 1.0))
    model = model.to(how.get("dtype", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=how.get("shard", "5GB"))
    if how.get("sparse"):
        keep = dict(fields, model_type="dinov3_vit", architectures=["DINOv3ViTModel"])
        (folder / "config.json").write_text(json.dumps(keep, indent=2, sort_keys=True) + "\n")
    for tag, (h, w) in sizes.items():
        g = torch.Generator().manual_seed(seed + 1 + h * 1000 + w)
        pixels = torch.randn(2 if tag in ("", "wide") else 1, fields.get("num_channels", 3), h, w,
                             generator=g)
        end = (f"_{tag}" if tag else "") + ".safetensors"
        save_file({"pixel_values": pixels}, folder / ("in" + end))
        save_file(reference(folder, pixels, within_head=False), folder / ("ref" + end))
    if how.get("gradients"):
        wide = load_file(folder / "in_wide.safetensors")["pixel_values"]
        save_file(attentions(folder, wide), folder / "attentions.safetensors")
        pixels = torch.randn(1, 3, 21, 30, generator=g)
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
        folder = out / f"dinov3_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
