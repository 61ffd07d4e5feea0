#!/usr/bin/env python3
"""Five steps of training a tiny vision transformer in PyTorch, float64, for tests/parity.

One file, training_vit.safetensors, checks forward, backward, clipping and AdamW as a whole:
  images (5,B,C,H,W), labels (5,B)        the batch of each step
  init.<key>                              the weights at the start (float32 holds them exactly)
  grad.<key>                              gradient of the first loss
  <run>.lr, <run>.loss, <run>.norm (5)    learning rate used, loss before the step, gradient norm
  <run>.final.<key>                       the weights after the last step
with the runs `plain` (no clipping, constant rate) and `clipped` (norm clipped, rate by a schedule).
__metadata__["config"] is a JSON object with the model and the settings of both runs.

The model: patches by a convolution, a class token in front, learned positions; blocks
x += proj(attention(norm1 x)), x += fc2(gelu(fc1(norm2 x))); a linear head on the normed class
token; mean cross-entropy. Every parameter decays. Keys and the row order of qkv are those of timm.
AdamW's eps is 1e-6 because the gradient of a key bias is zero but for rounding, which a smaller eps
would turn into steps.

    python scripts/make_training_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

MODEL = dict(dim=16, depth=2, heads=2, mlp_hidden=32, patch=4, image=[8, 12], channels=2, classes=3,
             norm_eps=1e-6, activation="gelu")
RUNS = {
    "plain": dict(lr=1e-2, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.05, clip=None),
    "clipped": dict(lr=2e-2, betas=[0.9, 0.95], eps=1e-6, weight_decay=0.1, clip=0.5,
                    schedule="warm-up over 2 of 5 steps, then cosine to 0"),
}
STEPS, BATCH = 5, 3


def initial(g):
    d, m = MODEL["dim"], MODEL["mlp_hidden"]
    h, w = (s // MODEL["patch"] for s in MODEL["image"])

    def normal(*shape, s):
        return (s * torch.randn(*shape, generator=g, dtype=torch.float64)).float().double()

    def linear(name, rows, columns):
        return {name + ".weight": normal(rows, columns, s=columns**-0.5),
                name + ".bias": normal(rows, s=0.1)}

    def norm(name):
        return {name + ".weight": 1 + normal(d, s=0.1), name + ".bias": normal(d, s=0.1)}

    p = {"patch_embed.proj.weight": normal(d, MODEL["channels"], 4, 4, s=0.2),
         "patch_embed.proj.bias": normal(d, s=0.1), "cls_token": normal(1, 1, d, s=0.5),
         "pos_embed": normal(1, 1 + h * w, d, s=0.3)}
    for i in range(MODEL["depth"]):
        b = f"blocks.{i}."
        p.update({**norm(b + "norm1"), **linear(b + "attn.qkv", 3 * d, d),
                  **linear(b + "attn.proj", d, d), **norm(b + "norm2"),
                  **linear(b + "mlp.fc1", m, d), **linear(b + "mlp.fc2", d, m)})
    p.update({**norm("norm"), **linear("head", MODEL["classes"], d)})
    return {k: t.float().double() for k, t in p.items()}


def forward(p, images, fused):
    """Logits (B,classes). fused: PyTorch's own attention, or the same written out."""
    d, heads = MODEL["dim"], MODEL["heads"]

    def linear(name, x):
        return x @ p[name + ".weight"].T + p[name + ".bias"]

    def norm(name, x):
        return F.layer_norm(x, (d,), p[name + ".weight"], p[name + ".bias"], MODEL["norm_eps"])

    x = F.conv2d(images, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], MODEL["patch"])
    x = x.flatten(2).transpose(1, 2)  # (B,HW,D)
    b = x.shape[0]
    x = torch.cat([p["cls_token"].expand(b, -1, -1), x], 1) + p["pos_embed"]
    for i in range(MODEL["depth"]):
        name = f"blocks.{i}."
        qkv = linear(name + "attn.qkv", norm(name + "norm1", x))
        q, k, v = qkv.reshape(b, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)  # (B,H,N,D/H)
        if fused:
            a = F.scaled_dot_product_attention(q, k, v)
        else:
            a = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(d // heads), -1) @ v
        x = x + linear(name + "attn.proj", a.transpose(1, 2).reshape(b, -1, d))
        x = x + linear(name + "mlp.fc2", F.gelu(linear(name + "mlp.fc1", norm(name + "norm2", x))))
    return linear("head", norm("norm", x)[:, 0])


def rate(run, step):
    if "schedule" not in run:
        return run["lr"]
    warm = 2
    if step < warm:
        return run["lr"] * (step + 1) / warm
    return run["lr"] * 0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm)))


def train(run, init, images, labels, fused):
    p = {k: t.clone().requires_grad_(True) for k, t in init.items()}
    adam = torch.optim.AdamW(p.values(), lr=run["lr"], betas=tuple(run["betas"]), eps=run["eps"],
                             weight_decay=run["weight_decay"])
    seen, first = {"lr": [], "loss": [], "norm": []}, None
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = rate(run, step)
        adam.zero_grad()
        loss = F.cross_entropy(forward(p, images[step], fused), labels[step])
        loss.backward()
        first = first or {k: t.grad.clone() for k, t in p.items()}
        norm = torch.nn.utils.clip_grad_norm_(p.values(), run["clip"] or math.inf)
        adam.step()
        for key, value in (("lr", rate(run, step)), ("loss", loss.item()), ("norm", norm.item())):
            seen[key].append(value)
    result = {k: torch.tensor(v, dtype=torch.float64) for k, v in seen.items()}
    result.update({f"final.{k}": t.detach() for k, t in p.items()})
    return result, first


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(20)
    init = initial(g)
    images = torch.randn(STEPS, BATCH, MODEL["channels"], *MODEL["image"], generator=g)
    labels = torch.randint(0, MODEL["classes"], (STEPS, BATCH), generator=g)
    tensors = {"images": images, "labels": labels}
    tensors.update({f"init.{k}": t.float() for k, t in init.items()})
    for name, run in RUNS.items():
        result, first = train(run, init, images.double(), labels, fused=True)
        # Another order of summation must not matter: a test at 1e-9 is fair.
        again, _ = train(run, init, images.double(), labels, fused=False)
        spread = max((again[k] - t).abs().max().item() for k, t in result.items())
        moved = max((result[f"final.{k}"] - t).abs().max().item() for k, t in init.items())
        assert spread < 1e-10, spread
        print(f"{name}: loss {[round(v, 6) for v in result['loss'].tolist()]}, gradient norms "
              f"{[round(v, 4) for v in result['norm'].tolist()]}, largest move {moved:.3f}, "
              f"two orders of summation differ by {spread:.1e}")
        tensors.update({f"{name}.{k}": t for k, t in result.items()})
        tensors.update({f"grad.{k}": t for k, t in first.items()})
    path = out / "training_vit.safetensors"
    save_file({k: t.contiguous() for k, t in tensors.items()}, path,
              {"config": json.dumps(dict(model=MODEL, steps=STEPS, batch=BATCH, runs=RUNS))})
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
