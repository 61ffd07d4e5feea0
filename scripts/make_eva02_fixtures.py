#!/usr/bin/env python3
"""Small EVA-02 models with everything random, run by timm, for tests/parity.

Folders eva02_<name>/ with config.json as timm has it on the hub (`architecture`, `num_classes`,
`model_args`), model.safetensors, in.safetensors (`pixel_values`) and ref.safetensors: what timm's
model returns in float32, created with dynamic_img_size=True, namely `hidden_states.<i>` (the input
of block 0 and the output of every block), `last_hidden_state` (forward_features), `pooler_output`
(forward_head with pre_logits) and `logits` where there are classes. Further images of a case are
in_<tag>.safetensors with ref_<tag>.safetensors. eva02_plain/ has grad.safetensors (see
make_dinov3_fixtures.py), of sum(pooler_output * cotangent).

    python scripts/make_eva02_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from make_dinov2_fixtures import randomise

SMALL = dict(img_size=28, patch_size=7, embed_dim=24, depth=3, num_heads=3)
TINY = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)
SIZES = {"": (28, 28), "large": (49, 49), "small": (7, 14), "wide": (21, 42), "same_count": (14, 56)}
ODD = {"": (16, 16), "wide": (12, 28)}
BASE, LARGE = "eva02_base_patch14_224", "eva02_large_patch14_448"
SMALLER, TINIEST = "eva02_small_patch14_336", "eva02_tiny_patch14_224"
# name: architecture, top-level fields, model_args, image sizes by tag, how it is stored
CASES = {
    "plain": (BASE, dict(num_classes=0), SMALL, SIZES, dict(gradients=True)),
    "fused": (TINIEST, dict(num_classes=0), SMALL, SIZES, {}),
    "classes": (LARGE, dict(num_classes=5), TINY, ODD, {}),
    "token": (BASE, dict(num_classes=0), dict(TINY, global_pool="token"), ODD, {}),
    "token_classes": (SMALLER, dict(num_classes=3), dict(TINY, global_pool="token"), ODD, {}),
    "no_qkv_bias": (BASE, dict(num_classes=0), dict(TINY, qkv_bias=False), ODD, {}),
    "fused_no_qkv_bias": (SMALLER, dict(num_classes=0), dict(TINY, qkv_bias=False), ODD, {}),
    # A trained grid that is not the rotary embedding's, and more channels.
    "reference": (LARGE, {}, dict(TINY, ref_feat_shape=[5, 3], in_chans=5), ODD, {}),
    # A hidden width of 74 and one head of 28: rows that no vector divides.
    "odd": (BASE, dict(num_classes=0, global_pool="token", num_features=999),
            dict(TINY, embed_dim=28, num_heads=1), ODD, {}),
    "bf16": (BASE, {}, TINY, ODD, dict(dtype=torch.bfloat16)),
    "f16": (TINIEST, {}, TINY, ODD, dict(dtype=torch.float16)),
    # The defaults of the architecture but for what makes it small; tiny activations make eps count.
    "sparse_config": ("eva02_tiny_patch14_336", {}, dict(embed_dim=12, depth=1, img_size=56), {
        "": (56, 56), "wide": (28, 70)
    }, dict(embedding_scale=0.005)),
}


def create(architecture, top, model_args):
    """What a hub config.json says: num_classes counts, default 0; the rest of the top does not."""
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in model_args.items()}
    return timm.create_model(architecture, pretrained=False, dynamic_img_size=True,
                             num_classes=top.get("num_classes", 0), **args).eval()


def outputs(model, pixels):
    """Named outputs; a hook before block 0 and one after every block hear the hidden states."""
    states = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda m, x: states.append(x[0]))]
    hooks += [b.register_forward_hook(lambda m, x, y: states.append(y)) for b in model.blocks]
    last = model.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    named = {f"hidden_states.{i}": h for i, h in enumerate(states)}
    named["last_hidden_state"] = last
    named["pooler_output"] = model.forward_head(last, pre_logits=True)
    if model.num_classes:
        named["logits"] = model.forward_head(last)
    return named


def gradients(model, pixels, g):
    model = model.double()
    leaf = pixels.double().requires_grad_()
    pooled = outputs(model, leaf)["pooler_output"]
    cotangent = torch.randn(pooled.shape, generator=g)
    (pooled * cotangent.double()).sum().backward()
    p = dict(model.named_parameters())
    named = {"pixel_values": pixels, "cotangent": cotangent, "d.pixel_values": leaf.grad}
    for key in ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.q_proj.bias",
                "blocks.0.attn.k_proj.weight", "blocks.0.mlp.fc1_g.weight",
                "blocks.0.mlp.norm.weight", "fc_norm.bias"):
        named["d." + key] = p[key].grad
    return {k: v.float().contiguous() for k, v in named.items()}


def fill(model, seed, embedding_scale=1.0):
    randomise(model, seed, embedding_scale)
    g = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():  # of the size of what they are added to
        model.pos_embed.copy_(0.6 * embedding_scale *
                              torch.randn(model.pos_embed.shape, generator=g))
        model.patch_embed.proj.weight.mul_(embedding_scale)
        model.patch_embed.proj.bias.mul_(embedding_scale)


def make(name, folder):
    architecture, top, model_args, sizes, how = CASES[name]
    seed = zlib.crc32(name.encode())
    model = create(architecture, top, model_args)
    fill(model, seed, how.get("embedding_scale", 1.0))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dtype = how.get("dtype", torch.float32)
    weights = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    config = dict(top, architecture=architecture, model_args=model_args)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for tag, (h, w) in sizes.items():
        g = torch.Generator().manual_seed(seed + 1 + h * 1000 + w)
        pixels = torch.randn(2 if tag in ("", "wide") else 1, model_args.get("in_chans", 3), h, w,
                             generator=g)
        end = (f"_{tag}" if tag else "") + ".safetensors"
        save_file({"pixel_values": pixels}, folder / ("in" + end))
        with torch.no_grad():
            named = outputs(model, pixels)
        save_file({k: v.clone().contiguous() for k, v in named.items()}, folder / ("ref" + end))
    if how.get("gradients"):
        pixels = torch.randn(1, 3, 21, 28, generator=g)
        save_file(gradients(model, pixels, g), folder / "grad.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for name in CASES:
        folder = out / f"eva02_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
