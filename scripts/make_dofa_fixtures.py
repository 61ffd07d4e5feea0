#!/usr/bin/env python3
"""Small DOFA models with everything random, run by torchgeo's class, for tests/parity.

DOFA's weight generator is 128 wide with 2048 hidden units in every size of the model: 2 MB, too
much for a repository. So a folder dofa_<name>/ holds no weights but weights.json, from which the
tests write model.safetensors (tests/generated.hpp): for every tensor its shape and the range of its
elements, uniform and a function of the tensor's name and the element's index (splitmix64, seeded by
the FNV-1a hash of the name). Beside it config.json and, for every tag ("" too), in[_tag].safetensors
(`pixel_values`, `wavelengths`) with ref[_tag].safetensors: `hidden_states.<i>`, `last_hidden_state`,
and where the model has them `pooler_output` and `logits`, in float32.

- size_<H>x<W>.safetensors: the same for an image of another size, with the position table resized
  here in float64: bicubic (Keys' kernel with a = -0.75, border repeated), align_corners.
- grad.safetensors: pixels, wavelengths, `cotangent`, and d sum(last_hidden_state * cotangent) by
  the pixels (`d.pixel_values`) and by some early weights (`d.<key>`).

The class is read from torchgeo's file alone (pip install --no-deps torchgeo will do; its package
wants many others).

    python scripts/make_dofa_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from make_sam_fixtures import keys_kernel


def torchgeo_dofa():
    spec = importlib.util.find_spec("torchgeo")
    path = Path(spec.origin).parent / "models" / "dofa.py"
    spec = importlib.util.spec_from_file_location("torchgeo_dofa", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DOFA


def fill(name, shape, low, high):
    seed = 0xcbf29ce484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001b3 % 2**64
    with np.errstate(over="ignore"):
        i = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
        z = np.uint64(seed) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    u = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.tensor((low + (high - low) * u).astype(np.float32).reshape(shape))


def reach(name, shape):
    """How far from 0 (norm weights: from 1) the elements of a tensor go."""
    if "norm" in name and name.endswith("weight"):
        return 0.5
    if name.endswith(("token", "tokens", "pos_embed")):
        return 1.0
    if len(shape) == 1:
        return 8.0 if "fc_bias" in name or "fc_weight" in name else 0.3
    if "fc_weight" in name or "fc_bias" in name:  # 0.01 of it is the kernel: patches of about 1
        return 1.5
    return 2.0 / np.prod(shape[1:])**0.5


def describe(model, extra):
    tensors = {k: list(v.shape) for k, v in model.state_dict().items()}
    tensors.update(extra)
    out = {}
    for name, shape in tensors.items():
        r = round(float(reach(name, shape)), 4)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        out[name] = {"shape": shape, "low": centre - r, "high": centre + r}
    return out


def named(model, pixels, waves, head):
    states = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, x: states.append(x[0]))]
    hooks += [b.register_forward_hook(lambda _, x, y: states.append(y)) for b in model.blocks]
    pooled = model.forward_features(pixels, waves)
    for h in hooks:
        h.remove()
    out = {f"hidden_states.{i}": h for i, h in enumerate(states)}
    out["last_hidden_state"] = states[-1] if model.global_pool else model.norm(states[-1])
    if head:
        out["pooler_output"] = pooled
    if model.num_classes:
        out["logits"] = model.forward_head(pooled)
    return out


def plain(tensors):
    return {k: v.detach().clone().contiguous() for k, v in tensors.items()}


def bicubic_matrix(n, o):
    """align_corners: the corners keep their places."""
    m = np.zeros((o, n))
    for i in range(o):
        s = i * (n - 1) / (o - 1) if o > 1 else 0.0
        first = int(np.floor(s))
        for tap in range(first - 1, first + 3):
            m[i, min(max(tap, 0), n - 1)] += keys_kernel(s - tap)
    return m


def resized(table, side, h, w):
    grid = table[0, 1:].double().numpy().reshape(side, side, -1)
    grid = np.einsum("oy,yxd->oxd", bicubic_matrix(side, h), grid)
    grid = np.einsum("ox,yxd->yod", bicubic_matrix(side, w), grid)
    grid = torch.tensor(grid.reshape(1, h * w, -1), dtype=torch.float32)
    return torch.cat([table[:, :1], grid], dim=1)


SMALL = dict(img_size=20, patch_size=4, embed_dim=24, depth=3, num_heads=3)
RGB, S1 = [0.665, 0.56, 0.49], [5.405, 5.405]
S2 = [0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19]
PRETRAINING = {"mask_token": [1, 1, 24], "projector.weight": [8, 24], "projector.bias": [8]}
NORM = {"norm.weight": [24], "norm.bias": [24]}
# name: arguments of the class, wavelengths by tag, what else
CASES = {
    "plain": (SMALL, {"": RGB, "one": [0.83], "nine": S2, "radar": S1},
              dict(extra=dict(PRETRAINING, **NORM), sizes=[(28, 12), (11, 33)], gradients=True)),
    "no_fc_norm": (dict(SMALL, depth=1), {"": RGB}, dict(extra=NORM, without=["fc_norm."])),
    "token": (dict(SMALL, global_pool=False), {"": RGB}, dict(extra=PRETRAINING)),
    "token_classes": (dict(SMALL, global_pool=False, num_classes=4, depth=1), {"": RGB}, {}),
    "classes": (dict(SMALL, num_classes=5, depth=1), {"": RGB}, {}),
    # A patch of 5 on 22 pixels: four positions a side and a remainder of 2 at the right and bottom.
    "remainder": (dict(SMALL, img_size=22, patch_size=5, mlp_ratio=2.5, num_heads=2), {"": S2}, {}),
    # Only what differs from the defaults is in config.json.
    "sparse_config": (dict(img_size=32, embed_dim=16, depth=1, num_heads=2), {"": RGB}, {}),
}


def make(name, folder):
    fields, inputs, how = CASES[name]
    model = torchgeo_dofa()(**dict(dict(patch_size=16, num_classes=0), **fields)).eval()
    weights = describe(model, how.get("extra", {}))
    for gone in how.get("without", []):
        weights = {k: v for k, v in weights.items() if not k.startswith(gone)}
    filled = {k: fill(k, v["shape"], v["low"], v["high"]) for k, v in weights.items()}
    state = {k: filled.get(k, v) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in weights.items())
    (folder / "weights.json").write_text("{\n" + lines + "\n}\n")
    (folder / "config.json").write_text(json.dumps(dict(model_type="dofa", **fields), indent=2) + "\n")

    head = "fc_norm.weight" in weights or not model.global_pool
    g = torch.Generator().manual_seed(7)
    side = fields["img_size"]
    for tag, waves in inputs.items():
        pixels = torch.randn(2, len(waves), side, side, generator=g)
        end = (f"_{tag}" if tag else "") + ".safetensors"
        given = {"pixel_values": pixels, "wavelengths": torch.tensor(waves)}
        save_file(given, folder / ("in" + end))
        with torch.no_grad():
            out = plain(named(model, pixels, waves, head))
        save_file(out, folder / ("ref" + end))
        print("  ", tag, {k: round(v.abs().max().item(), 2) for k, v in out.items()})
    table = model.pos_embed.detach().clone()
    for h, w in how.get("sizes", []):
        p, waves = model.patch_size, inputs[""]
        rows, columns = (h + 2 - p) // p + 1, (w + 2 - p) // p + 1
        model.pos_embed.data = resized(table, side // p, rows, columns)
        pixels = torch.randn(1, len(waves), h, w, generator=g)
        with torch.no_grad():
            out = plain(named(model, pixels, waves, head))
        save_file(dict(out, pixel_values=pixels, wavelengths=torch.tensor(waves)),
                  folder / f"size_{h}x{w}.safetensors")
    model.pos_embed.data = table
    if how.get("gradients"):
        waves = inputs["one"]
        pixels = torch.randn(2, len(waves), side, side, generator=g).requires_grad_()
        out = named(model, pixels, waves, head)["last_hidden_state"]
        cotangent = torch.randn(out.shape, generator=g)
        (out * cotangent).sum().backward()
        parameters = dict(model.named_parameters())
        result = {"pixel_values": pixels, "wavelengths": torch.tensor(waves),
                  "cotangent": cotangent, "d.pixel_values": pixels.grad}
        for key in ("cls_token", "patch_embed.fclayer.w1.weight", "patch_embed.fclayer.w1.bias",
                    "patch_embed.weight_generator.bias_token",
                    "patch_embed.weight_generator.fc_weight.bias",
                    "patch_embed.weight_generator.transformer_encoder.layers.0.norm2.weight",
                    "patch_embed.weight_generator.transformer_encoder.layers.0.linear1.bias"):
            result["d." + key] = parameters[key].grad
        save_file(plain(result), folder / "grad.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for name in CASES:
        folder = out / f"dofa_{name}"
        make(name, folder)
        files = sorted(folder.iterdir())
        print(f"{folder.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
