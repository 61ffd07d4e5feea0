#!/usr/bin/env python3
"""Small CLIP models with everything random, run by transformers, for tests/parity.

Folders clip_<name>/ as make_dinov2_fixtures.py describes them; the outputs are `hidden_states.<i>`,
`last_hidden_state`, `pooler_output` and, where the class has a projection, `image_embeds`. Sizes
other than image_size are run with interpolate_pos_encoding. clip_projection/ has grad.safetensors
(see make_dinov3_fixtures.py), of sum(image_embeds * cotangent).

    python scripts/make_clip_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel,
                          CLIPVisionModelWithProjection)

from make_dinov2_fixtures import randomise

SMALL = dict(hidden_size=24,
             intermediate_size=44,
             num_hidden_layers=3,
             num_attention_heads=3,
             image_size=28,
             patch_size=7,
             projection_dim=10)
TINY = dict(hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            projection_dim=6)
SIZES = {
    "": (28, 28), "large": (49, 49), "small": (14, 14), "wide": (21, 42), "same_count": (14, 56),
    "remainder": (34, 45)
}
ODD = {"": (16, 16), "wide": (12, 27)}
TEXT = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            vocab_size=16, max_position_embeddings=8, projection_dim=6)
# name: class, config, image sizes by tag ("" is in.safetensors), and how it is stored
CASES = {
    "plain": (CLIPVisionModel, SMALL, SIZES, {}),
    # The files on the hub have the prefix; transformers 5 writes a vision model without it.
    "prefix": (CLIPVisionModel, TINY, ODD, dict(prefix=True)),
    "projection": (CLIPVisionModelWithProjection, SMALL, {"": (28, 28), "wide": (21, 42)},
                   dict(gradients=True)),
    # vision_config's own projection_dim is not the one that counts.
    "full": (CLIPModel, dict(TINY, projection_dim=9), ODD, {}),
    "gelu": (CLIPVisionModel, dict(TINY, hidden_act="gelu", num_channels=4,
                                   layer_norm_eps=1e-2), ODD, {}),
    "bf16": (CLIPVisionModel, TINY, ODD, dict(dtype=torch.bfloat16)),
    "f16": (CLIPVisionModelWithProjection, TINY, ODD, dict(dtype=torch.float16)),
    "sharded": (CLIPModel, dict(TINY, projection_dim=9), ODD, dict(shard="8KB")),
    # Only what differs from the defaults is left in config.json; small activations make eps count.
    "sparse_config": (CLIPVisionModel, dict(hidden_size=12, intermediate_size=20,
                                            num_hidden_layers=2, image_size=64), {
        "": (64, 64), "wide": (32, 97)
    }, dict(sparse=True, embedding_scale=0.005)),
}


def reference(cls, folder, pixels, dtype=torch.float32):
    """The vision tower of a folder on images, as named tensors."""
    model, info = cls.from_pretrained(folder, dtype=dtype, attn_implementation="eager",
                                      output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "mismatched_keys")), info
    model.eval()
    run = model.vision_model if cls is CLIPModel else model
    out = run(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    named = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    named["last_hidden_state"] = out.last_hidden_state
    if cls is CLIPVisionModelWithProjection:
        named["image_embeds"] = out.image_embeds
        tower = model.vision_model
        named["pooler_output"] = tower.post_layernorm(out.last_hidden_state[:, 0])
    else:
        named["pooler_output"] = out.pooler_output
    if cls is CLIPModel:
        named["image_embeds"] = model.visual_projection(out.pooler_output)
    return model, named


def gradients(cls, folder, pixels, g):
    leaf = pixels.double().requires_grad_()
    model, named = reference(cls, folder, leaf, torch.float64)
    cotangent = torch.randn(named["image_embeds"].shape, generator=g)
    (named["image_embeds"] * cotangent.double()).sum().backward()
    p = dict(model.named_parameters())
    out = {"pixel_values": pixels, "cotangent": cotangent, "d.pixel_values": leaf.grad}
    for key in ("embeddings.class_embedding", "embeddings.patch_embedding.weight",
                "embeddings.position_embedding.weight", "pre_layrnorm.weight",
                "encoder.layers.0.self_attn.k_proj.weight", "encoder.layers.1.mlp.fc1.bias"):
        out["d.vision_model." + key] = p["vision_model." + key].grad
    out["d.visual_projection.weight"] = p["visual_projection.weight"].grad
    return {k: v.float().contiguous() for k, v in out.items()}


def make(name, folder):
    cls, fields, sizes, how = CASES[name]
    seed = zlib.crc32(name.encode())
    if cls is CLIPModel:
        config = CLIPConfig(vision_config=dict(fields, projection_dim=5), text_config=TEXT,
                            projection_dim=fields["projection_dim"])
    else:
        config = CLIPVisionConfig(**fields)
    model = cls(config).eval()
    randomise(model, seed, how.get("embedding_scale", 1.0))
    model = model.to(how.get("dtype", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=how.get("shard", "5GB"))
    if how.get("prefix"):
        # As on the hub: a prefix, and the positions' numbers of older versions.
        weights = load_file(folder / "model.safetensors")
        weights = {"vision_model." + k: v for k, v in weights.items()}
        weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if how.get("sparse"):
        keep = dict(fields, model_type="clip_vision_model", architectures=[cls.__name__])
        (folder / "config.json").write_text(json.dumps(keep, indent=2, sort_keys=True) + "\n")
    for tag, (h, w) in sizes.items():
        g = torch.Generator().manual_seed(seed + 1 + h * 1000 + w)
        pixels = torch.randn(2 if tag in ("", "wide") else 1, fields.get("num_channels", 3), h, w,
                             generator=g)
        end = (f"_{tag}" if tag else "") + ".safetensors"
        save_file({"pixel_values": pixels}, folder / ("in" + end))
        with torch.no_grad():
            _, named = reference(cls, folder, pixels)
        save_file({k: v.clone().contiguous() for k, v in named.items()}, folder / ("ref" + end))
    if how.get("gradients"):
        pixels = torch.randn(1, 3, 21, 30, generator=g)
        save_file(gradients(cls, folder, pixels, g), folder / "grad.safetensors")


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
        folder = out / f"clip_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
