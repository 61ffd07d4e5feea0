#!/usr/bin/env python3
"""Small DINOv2 models with everything random, run by transformers, for tests/parity.

Each case is a folder dinov2_<name>/ as `save_pretrained` writes it (config.json and
model.safetensors, or shards with their index), with in.safetensors (`pixel_values`) and
ref.safetensors: what the class named in config.json returns in float32 with eager attention, namely
`hidden_states.<i>`, `last_hidden_state` and `pooler_output`. Further images of a case are
in_<tag>.safetensors with ref_<tag>.safetensors. Weights stored in half precision are widened to
float32 before the reference runs.

    python scripts/make_dinov2_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (Dinov2Config, Dinov2ForImageClassification, Dinov2Model,
                          Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification,
                          Dinov2WithRegistersModel)


def randomise(model, seed, embedding_scale=1.0):
    """No parameter keeps its initial value: a zero bias or a unit scale would hide a mistake."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            n = torch.randn(p.shape, generator=g)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * n)
            elif "lambda1" in name:
                p.copy_(0.7 + 0.3 * n)
            elif "token" in name or "position" in name:
                p.copy_(0.6 * embedding_scale * n)
            elif p.dim() <= 1:
                p.copy_(0.2 * n * (embedding_scale if "projection" in name else 1))
            else:
                scale = embedding_scale if "projection" in name else 1.2
                p.copy_(scale * n / p[0].numel()**0.5)


def reference(folder, pixels, within_head=True):
    """The backbone of a folder on a batch of images, as named float32 tensors. within_head: the
    class in config.json may be a head around it."""
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(folder,
                                      dtype=torch.float32,
                                      attn_implementation="eager",
                                      output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model.eval()
    if within_head:
        model = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True)
    named = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    named["last_hidden_state"] = out.last_hidden_state
    named["pooler_output"] = out.pooler_output
    return {k: v.clone().contiguous() for k, v in named.items()}


# name: class, config, image sizes by tag ("" is in.safetensors), and how it is stored
SMALL = dict(hidden_size=24,
             num_hidden_layers=2,
             num_attention_heads=3,
             image_size=28,
             patch_size=7)
TINY = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4)
PLAIN, REGISTERS = (Dinov2Config, Dinov2Model), (Dinov2WithRegistersConfig,
                                                 Dinov2WithRegistersModel)
SIZES = {
    "": (28, 28), "large": (49, 49), "small": (14, 14), "wide": (21, 42), "same_count": (14, 56),
    "remainder": (34, 45)
}
CASES = {
    "plain": (PLAIN, dict(SMALL, num_hidden_layers=3), SIZES, {}),
    "registers": (REGISTERS, dict(SMALL, num_register_tokens=4), SIZES, {}),
    "patch14": (PLAIN, dict(TINY, image_size=42, patch_size=14,
                            mlp_ratio=3), {"": (42, 42), "wide": (28, 71)}, {}),
    "swiglu": (PLAIN, dict(SMALL, use_swiglu_ffn=True,
                           num_channels=5), {"": (28, 28), "wide": (21, 35)}, {}),
    "registers_swiglu": (REGISTERS, dict(TINY, use_swiglu_ffn=True,
                                         num_register_tokens=1), {"": (16, 16), "wide":
                                                                  (12, 27)}, {}),
    "no_qkv_bias": (PLAIN, dict(TINY, qkv_bias=False, layer_norm_eps=1e-2), {"": (16, 16)}, {}),
    "quick_gelu": (PLAIN, dict(TINY, hidden_act="quick_gelu",
                               use_mask_token=False), {"": (16, 16)}, {}),
    "bf16": (PLAIN, TINY, {"": (16, 16), "wide": (20, 36)}, dict(dtype=torch.bfloat16)),
    "f16": (REGISTERS, TINY, {"": (16, 16), "wide": (20, 36)}, dict(dtype=torch.float16)),
    "sharded": (PLAIN, dict(TINY, num_hidden_layers=3), {"": (16, 16)}, dict(shard="9KB")),
    # Only what differs from the defaults is left in config.json; small activations make eps count.
    "sparse_config":
    (PLAIN, dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
                 image_size=28), {"": (28, 28), "wide":
                                  (14, 42)}, dict(sparse=True, embedding_scale=0.005)),
    "registers_sparse_config":
    (REGISTERS, dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
                     image_size=32), {"": (32, 32), "wide":
                                      (16, 64)}, dict(sparse=True, embedding_scale=0.005)),
    "classifier":
    ((Dinov2Config, Dinov2ForImageClassification), dict(TINY, num_labels=3), {"": (16, 16)}, {}),
    "registers_classifier": ((Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification),
                             dict(TINY, num_labels=3), {"": (16, 16)}, {}),
}


def make(name, folder):
    (config_class, model_class), fields, sizes, how = CASES[name]
    seed = zlib.crc32(name.encode())
    model = model_class(config_class(**fields)).eval()
    randomise(model, seed, how.get("embedding_scale", 1.0))
    model = model.to(how.get("dtype", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=how.get("shard", "5GB"))
    if how.get("sparse"):
        keep = dict(fields,
                    model_type=config_class.model_type,
                    architectures=[model_class.__name__])
        (folder / "config.json").write_text(json.dumps(keep, indent=2, sort_keys=True) + "\n")
    for tag, (h, w) in sizes.items():
        g = torch.Generator().manual_seed(seed + 1 + h * 1000 + w)
        channels = fields.get("num_channels", 3)
        pixels = torch.randn(2 if tag in ("", "wide") else 1, channels, h, w, generator=g)
        end = (f"_{tag}" if tag else "") + ".safetensors"
        save_file({"pixel_values": pixels}, folder / ("in" + end))
        save_file(reference(folder, pixels), folder / ("ref" + end))


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
        folder = out / f"dinov2_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
