#!/usr/bin/env python3
"""An independent reference of SpectralMoE's plugin (PyTorch, float64), and fixtures made with it.

Written from the equations of the module (both readings: `paper` and `official`), not from any code,
and first of all checked against known values of the official module and of the paper's equations
(GOLDEN below: printed with six decimals, so they must agree to 1e-6). Gradients are PyTorch's.

Writes xray_spectralmoe_<name>/, one run of the program `xray` each:
  args.json        module, preset, grad, dtype
  cfg.json         the module's configuration
  w.safetensors    the weights; in.safetensors  the inputs, `cot.<output>` included
  ref.safetensors  outputs, `mid.*` and (with grad) `grad.param.*`, `grad.input.*`, all float64
Stored numbers are exactly representable in float32, unless a case is about storage types.

    python scripts/make_spectralmoe_fixtures.py [--out tests/parity/fixtures] [--check]
"""
import argparse
import json
import math
import shutil
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

PRESETS = {
    "paper": dict(gate="l1", noise_floor=0.0, expert_logits="dot", drop_first=False,
                  combine="weighted", fusion="eq", balance_terms=["importance"],
                  balance_reduce="mean", balance_coef=1.0),
    "official": dict(gate="l2", noise_floor=0.01, expert_logits="sumprod", drop_first=True,
                     combine="logsumexp", fusion="diag", balance_terms=["importance", "load"],
                     balance_reduce="sum", balance_coef=1000.0),
}
EPS = 2.0**-52  # what the official combine puts in the place of a sum that is exactly zero
MODALITIES = ("visual", "depth")


# ----------------------------------------------------------------------------- the reference
# One layer. c: configuration, w: weights by name, l: layer. f: rows (n,D) of one modality j.


def clean_logits(c, f, wg):
    """(n,E) from the prototypes, the columns of wg (D,E)."""
    if c["gate"] == "dot":
        return f @ wg
    t = f[:, :, None] - wg[None]  # (n,D,E)
    if c["gate"] == "l1":
        return -t.abs().sum(1)
    if c["gate"] == "l2":
        return -t.square().sum(1).sqrt()
    assert c["gate"] == "l2sq"
    return -t.square().sum(1)


def cv2(a):
    """Squared coefficient of variation of the E entries."""
    if a.numel() == 1:
        return a.sum() * 0
    mean = a.mean()
    variance = (a - mean).square().sum() / (a.numel() - 1)
    return variance / (mean.square() + 1e-10)


def gate(c, w, l, j, f, noise):
    n, e, k = f.shape[0], c["experts"], c["top_k"]
    clean = clean_logits(c, f, w[f"w_gate.{l}.{j}"])  # (n,E)
    sigma = F.softplus(f @ w[f"w_noise.{l}.{j}"]) + c["noise_floor"]  # (n,E)
    h = clean if noise is None else clean + sigma * noise
    order = torch.argsort(-h.detach(), dim=1, stable=True)  # ties: lower index first
    chosen = order[:, :k]
    kept = h.gather(1, chosen)
    gates = torch.zeros_like(h).scatter(1, chosen, torch.softmax(kept, 1))
    if noise is not None and k < e:
        t_in = h.gather(1, order[:, k:k + 1])  # (k+1)-th value
        t_out = h.gather(1, order[:, k - 1:k])  # k-th value
        threshold = torch.where(h > t_in, t_in, t_out)
        z = (clean - threshold) / sigma
        load = (0.5 * torch.erfc(-z / math.sqrt(2))).sum(0)
    else:
        load = (gates.detach() > 0).sum(0).to(f.dtype)
    return dict(clean=clean, sigma=sigma, logits=h, chosen=chosen, gates=gates,
                importance=gates.sum(0), load=load)


def tokens_of(w, l, e):
    return w[f"experts_a.{l}.{e}"] @ w[f"experts_b.{l}.{e}"]  # (T,D)


def experts(c, w, l, f, g):
    """Combined output of the chosen experts, (n,D)."""
    outputs = []
    for e in range(c["experts"]):
        t = tokens_of(w, l, e)
        u = t @ w["mlp_token2feat.weight"].T + w["mlp_token2feat.bias"]  # (T,D)
        if c["expert_logits"] == "dot":
            a = f @ t.T
        else:
            assert c["expert_logits"] == "sumprod"
            a = f.sum(1, keepdim=True) * t.sum(1)[None]
        a = torch.softmax(a / math.sqrt(c["dim"]), 1)  # (n,T), over all tokens
        first = 1 if c["drop_first"] else 0
        outputs.append(a[:, first:] @ u[first:])
    dz = torch.stack(outputs, 1)  # (n,E,D)
    picked = dz.gather(1, g["chosen"][:, :, None].expand(-1, -1, c["dim"]))  # (n,k,D)
    if c["combine"] == "weighted":
        return (g["gates"].gather(1, g["chosen"])[:, :, None] * picked).sum(1)
    assert c["combine"] == "logsumexp"
    total = picked.exp().sum(1)
    return torch.where(total == 0, torch.full_like(total, EPS), total).log()


def fuse(c, ov, od):
    """(B,N,D) from the combined experts of both modalities; attention stays inside an image."""
    if c["fusion"] == "local":
        return ov + od
    q, k = (od, ov) if c["fusion"] == "diag" else (ov, od)
    s = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(c["dim"]), -1)  # (B,N,N)
    if c["fusion"] == "diag":
        return torch.diagonal(s, dim1=1, dim2=2)[:, :, None] * ov
    return s @ {"eq": od, "figure": ov}[c["fusion"]]


def layer(c, w, l, visual, depth, noise):
    """noise: None or (visual, depth). Returns outputs, intermediates and, for checks, the gates."""
    b, p, pd, d = visual.shape[0], c["prefix"], c["depth_prefix"], c["dim"]
    v, z = visual[:, p:], depth[:, pd:]
    moe, gates, losses, mid = [], [], [], {}
    for j, (name, x) in enumerate(zip(MODALITIES, (v, z))):
        f = x.reshape(-1, d)
        g = gate(c, w, l, j, f, None if noise is None else noise[j])
        moe.append(experts(c, w, l, f, g).reshape(x.shape))
        losses.append(sum(cv2(g[term]) for term in c["balance_terms"]))
        for key in ("logits", "gates", "importance", "load"):
            mid[f"mid.{key}.{name}"] = g[key]
        mid[f"mid.moe.{name}"] = moe[j]
        gates.append(g)
    delta = fuse(c, *moe)
    mid["mid.delta"] = delta
    update = (delta + v) @ w["mlp_delta_f.weight"].T + w["mlp_delta_f.bias"]
    out = torch.cat([visual[:, :p], v + w["scale"] * update], 1)
    reduced = losses[0] + losses[1]
    if c["balance_reduce"] == "mean":
        reduced = reduced / 2
    return {"out": out, "aux_loss": c["balance_coef"] * reduced}, mid, gates


def queries(c, w):
    """(T,Q) from the expert tokens of all layers."""
    per_layer = []
    for l in range(c["layers"]):
        mean = sum(tokens_of(w, l, e) for e in range(c["experts"])) / c["experts"]
        per_layer.append(mean @ w["transform.weight"].T + w["transform.bias"])
    x = torch.stack(per_layer)  # (L,T,Q)
    largest = x[0]
    for l in range(1, c["layers"]):  # strictly greater: a tie stays with the lower layer
        largest = torch.where(x[l] > largest, x[l], largest)
    summary = torch.stack([largest, x.mean(0), x[-1]], -1)  # (T,Q,3)
    return summary.reshape(c["tokens"], -1) @ w["merge.weight"].T + w["merge.bias"]


def run(module, c, w, x, grad):
    """All tensors that the program writes, by name, in the dtype of w and x."""
    ignored = {"mean", "std"}
    w = {k: t.detach().clone().requires_grad_(grad) for k, t in w.items() if k not in ignored}
    cot = {k[4:]: t for k, t in x.items() if k.startswith("cot.")}
    x = {k: t.detach().clone() for k, t in x.items() if not k.startswith("cot.")}
    inputs = {k: t.requires_grad_(grad) for k, t in x.items() if not k.startswith("noise.")}
    if module == "spectralmoe.plugin_layer":
        noise = (x["noise.visual"], x["noise.depth"]) if "noise.visual" in x else None
        outputs, mid, _ = layer(c, w, c["layer"], x["visual"], x["depth"], noise)
    else:
        outputs, mid, total = {}, {}, 0
        for l in range(c["layers"]):
            noise = None
            if f"noise.visual.{l}" in x:
                noise = (x[f"noise.visual.{l}"], x[f"noise.depth.{l}"])
            o, m, _ = layer(c, w, l, x[f"visual.{l}"], x[f"depth.{l}"], noise)
            outputs[f"out.{l}"], mid[f"mid.delta.{l}"] = o["out"], m["mid.delta"]
            total = total + o["aux_loss"]
        outputs["aux_loss"] = total / c["layers"]
        outputs["queries"] = queries(c, w)
    result = {**outputs, **mid}
    if grad:
        loss = sum(((outputs[k] * t).sum() for k, t in cot.items()), torch.zeros(()))
        names = [f"grad.param.{k}" for k in w] + [f"grad.input.{k}" for k in inputs]
        leaves = [*w.values(), *inputs.values()]
        if loss.requires_grad:
            ds = torch.autograd.grad(loss, leaves, allow_unused=True)
        else:
            ds = [None] * len(leaves)
        for name, leaf, d in zip(names, leaves, ds):
            result[name] = torch.zeros_like(leaf) if d is None else d
    return {k: t.detach().clone().contiguous() for k, t in result.items()}


# ------------------------------------------------------------------------------- known values
# The tiny set-up: value[i] = amp * sin(freq * i + phase), row-major, stored in float32.

TINY = dict(layers=2, dim=8, tokens=5, rank=2, experts=3, query_dim=4, prefix=0, depth_prefix=0,
            layer=0)


def fill(shape, amp, freq, phase):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (amp * torch.sin(freq * i + phase)).reshape(shape).float().double()


def tiny_weights():
    w = {"scale": torch.tensor(0.5, dtype=torch.float64)}
    for l in range(2):
        for e in range(3):
            w[f"experts_a.{l}.{e}"] = fill((5, 2), 0.9, 0.7, 0.3 * l + 0.5 * e)
            w[f"experts_b.{l}.{e}"] = fill((2, 8), 0.8, 0.4, 0.2 * l + 0.9 * e)
        for j in range(2):
            w[f"w_gate.{l}.{j}"] = fill((8, 3), 0.6, 1.1, 0.1 * l + 0.4 * j)
            w[f"w_noise.{l}.{j}"] = fill((8, 3), 0.2, 0.9, 0.2 * l + 0.3 * j)
    for name, shape, weight, bias in [
        ("mlp_token2feat", (8, 8), (0.3, 0.37, 0.1), (0.2, 0.5, 0.2)),
        ("mlp_delta_f", (8, 8), (0.25, 0.53, 0.4), (0.1, 0.8, 0.6)),
        ("transform", (4, 8), (0.4, 0.29, 0.3), (0.1, 0.6, 0.1)),
        ("merge", (4, 12), (0.35, 0.31, 0.2), (0.05, 0.9, 0.7))]:
        w[name + ".weight"], w[name + ".bias"] = fill(shape, *weight), fill(shape[:1], *bias)
    return w


# variant: preset, overrides, row 0 of the output, its sum, its sum of absolute values
GOLDEN = [
    ("official, l2, k=1", "official", dict(top_k=1),
     "0.769671 0.422181 0.891616 1.395925 0.080204 -0.426859 -0.208341 -1.244304",
     3.129790, 30.557432),
    ("official, l2, k=2", "official", dict(top_k=2),
     "0.808425 0.434070 0.842043 1.429149 0.099543 -0.477681 -0.181429 -1.217972",
     3.442466, 30.571347),
    ("official, l2, k=3", "official", dict(top_k=3),
     "0.830562 0.441245 0.813376 1.448061 0.110999 -0.507019 -0.166187 -1.202505",
     3.623700, 30.632218),
    ("official, dot, k=3", "official", dict(top_k=3, gate="dot"),
     "0.830562 0.441245 0.813376 1.448061 0.110999 -0.507019 -0.166187 -1.202505",
     3.623700, 30.632218),
    ("official, dot, k=1", "official", dict(top_k=1, gate="dot"),
     "0.771109 0.421360 0.890925 1.397374 0.079576 -0.427737 -0.206914 -1.244725",
     3.131937, 30.555904),
    ("official, l2, k=1, layer 1", "official", dict(top_k=1, layer=1),
     "0.769224 0.422614 0.891668 1.395444 0.080590 -0.426728 -0.208845 -1.243976",
     3.128898, 30.558849),
    ("official, k=1, dot logits", "official", dict(top_k=1, expert_logits="dot"),
     "0.766994 0.425512 0.891261 1.392916 0.083297 -0.426665 -0.211610 -1.241523",
     3.130302, 30.552446),
    ("official, k=1, full softmax", "official", dict(top_k=1, fusion="full"),
     "0.834094 0.392574 0.854136 1.459639 0.059702 -0.471916 -0.146836 -1.255219",
     3.405229, 30.553212),
    ("official, k=2, weighted", "official", dict(top_k=2, combine="weighted"),
     "0.768490 0.424085 0.891064 1.394523 0.082032 -0.427120 -0.209931 -1.242596",
     3.129516, 30.560660),
    ("paper, k=1", "paper", dict(top_k=1),
     "0.840358 0.401525 0.839727 1.463802 0.070324 -0.485744 -0.144873 -1.243177",
     3.499653, 30.560146),
    ("paper, k=2", "paper", dict(top_k=2),
     "0.839612 0.402428 0.839651 1.462967 0.071158 -0.485669 -0.145776 -1.242430",
     3.499661, 30.561118),
    ("paper, k=1, drop_first", "paper", dict(top_k=1, drop_first=True),
     "0.822845 0.408687 0.850722 1.446634 0.074952 -0.472788 -0.161292 -1.241191",
     3.419346, 30.545596),
    ("paper, k=1, figure", "paper", dict(top_k=1, fusion="figure"),
     "0.840346 0.400071 0.841062 1.464040 0.068771 -0.484570 -0.144389 -1.244792",
     3.491200, 30.559868),
]
GOLDEN_LOSS = [(dict(top_k=1), 7500.000, 3), (dict(top_k=2), 3056.758, 3),
               (dict(top_k=3), 84.6995, 4),
               (dict(top_k=1, gate="dot"), 1000.000, 3), (dict(top_k=2, gate="dot"), 441.787, 3),
               (dict(top_k=3, gate="dot"), 3.266, 3), (dict(top_k=1, gate="l2sq"), 7500.0, 3),
               (dict(top_k=2, gate="l2sq"), 3690.450, 3), (dict(top_k=3, gate="l2sq"), 1195.606, 3)]
GOLDEN_QUERIES = """0.285552 -0.048227 -0.058956 0.234273 0.114740 0.025710 -0.011964 0.081639
 0.040670 0.084861 -0.036951 0.064333 0.201015 0.025269 -0.097500 0.225325
 0.307982 -0.050769 -0.077127 0.267246"""


def check_golden():
    w = tiny_weights()
    v, z = fill((1, 6, 8), 1.0, 0.61, 0.25), fill((1, 6, 8), 0.9, 0.47, 0.75)
    failed = []

    def compare(what, got, want, decimals=6):
        want = torch.tensor(want, dtype=torch.float64)
        error = (got.double().reshape(want.shape) - want).abs().max().item()
        ok = error <= 10.0**-decimals
        failed.extend([] if ok else [what])
        print(f"  {what:44} {error:9.1e} {'' if ok else ' BEYOND'}")

    def numbers(text):
        return [float(t) for t in text.split()]

    def one(preset, over, noise=None):
        c = {**PRESETS[preset], **TINY, **over}
        if over.get("fusion") != "full":
            return layer(c, w, c["layer"], v, z, noise)
        # Not a switch: Q = depth, K = V = visual is `figure` with the queries exchanged.
        _, mid, gates = layer({**c, "fusion": "diag"}, w, c["layer"], v, z, noise)
        ov, od = mid["mid.moe.visual"], mid["mid.moe.depth"]
        delta = torch.softmax(od @ ov.transpose(1, 2) / math.sqrt(8), -1) @ ov
        update = (delta + v) @ w["mlp_delta_f.weight"].T + w["mlp_delta_f.bias"]
        return {"out": v + w["scale"] * update}, mid, gates

    print("largest difference to the known values (printed with 6 decimals)")
    for name, preset, over, row, total, absolute in GOLDEN:
        out = one(preset, over)[0]["out"]
        compare(name + ": row 0", out[0, 0], numbers(row))
        sums = torch.stack([out.sum(), out.abs().sum()])
        compare(name + ": sum, abs sum", sums, [total, absolute])
    for over, value, decimals in GOLDEN_LOSS:
        name = ", ".join(f"{k} {o}" for k, o in over.items())
        compare(f"balance loss, {name}", one("official", over)[0]["aux_loss"], value, decimals)
    _, _, g = one("official", dict(top_k=1))
    compare("routing, visual", g[0]["chosen"].double(), [0, 0, 2, 2, 2, 0])
    compare("routing, depth", g[1]["chosen"].double(), [2, 2, 2, 2, 2, 2])
    _, _, g = one("official", dict(top_k=2))
    compare("gates k=2, visual row 0", g[0]["gates"][0], [0.526196, 0, 0.473804])
    compare("gates k=2, depth row 0", g[1]["gates"][0], [0.454952, 0, 0.545048])
    noise = fill((6, 3), 1.0, 1.3, 0.2)
    out, _, g = one("official", dict(top_k=1), (noise, noise))
    compare("noise: clean logits, visual row 0", g[0]["clean"][0],
            [-2.105830, -2.475770, -2.210712])
    compare("noise: sigma, visual row 0", g[0]["sigma"][0], [0.715811, 0.667351, 0.646910])
    compare("noise: routing, visual", g[0]["chosen"].double(), [1, 2, 0, 2, 0, 0])
    compare("noise: load, visual", g[0]["load"], [2.568332, 0.976193, 2.491394])
    compare("noise: balance loss", out["aux_loss"], 979.8172, 4)
    compare("queries", queries({**PRESETS["official"], **TINY}, w), numbers(GOLDEN_QUERIES))
    if failed:
        raise SystemExit(f"the reference does not give the known values: {failed}")


# ------------------------------------------------------------------------------------ fixtures

SIZES = dict(layers=2, dim=12, tokens=7, rank=3, experts=4, top_k=1, query_dim=5, prefix=1,
             depth_prefix=1)
BOTH = dict(balance_terms=["importance", "load"])
# name: module, preset, configuration beyond SIZES, and how to make the data
# (b, n: images and tokens; noise; cot: outputs that get a weight, all by default)
CASES = {
    "paper_k1": ("plugin_layer", "paper", dict(layer=0), {}),
    "paper_k1_noise_load": ("plugin_layer", "paper", dict(layer=1, **BOTH), dict(noise=True)),
    "paper_k2_noise": ("plugin_layer", "paper", dict(layer=1, top_k=2, balance_coef=0.5, **BOTH),
                       dict(noise=True)),
    "paper_k_all_noise": ("plugin_layer", "paper", dict(layer=0, top_k=4, balance_terms=["load"]),
                          dict(noise=True)),
    "paper_figure_l2sq_drop": ("plugin_layer", "paper",
                               dict(layer=0, top_k=3, fusion="figure", gate="l2sq", drop_first=True,
                                    prefix=0, depth_prefix=2), {}),
    "paper_local_dot": ("plugin_layer", "paper",
                        dict(layer=0, top_k=2, fusion="local", gate="dot", noise_floor=0.05,
                             balance_reduce="sum", balance_terms=["load", "importance"],
                             prefix=5), dict(noise=True)),
    "paper_as_official": ("plugin_layer", "paper",
                          dict(layer=1, top_k=2, gate="dot", noise_floor=0.01,
                               expert_logits="sumprod", drop_first=True, combine="logsumexp",
                               fusion="diag", balance_terms=["load"], balance_reduce="sum",
                               balance_coef=20), dict(noise=True, b=1)),
    "paper_ties_and_kinks": ("plugin_layer", "paper", dict(layer=0, top_k=2, **BOTH),
                             dict(ties=True)),
    "paper_balance_only": ("plugin_layer", "paper", dict(layer=0, top_k=2, **BOTH),
                           dict(noise=True, cot=["aux_loss"])),
    "paper_no_cot": ("plugin_layer", "paper", dict(layer=0), dict(cot=[], n=3)),
    "paper_one_of_all": ("plugin_layer", "paper",
                         dict(layers=1, dim=3, tokens=1, rank=1, experts=1, query_dim=1, prefix=0,
                              depth_prefix=0, layer=0, **BOTH), dict(noise=True, b=1, n=1)),
    "official_k1": ("plugin_layer", "official", dict(layer=1, prefix=5), {}),
    "official_k1_noise": ("plugin_layer", "official", dict(layer=0), dict(noise=True)),
    "official_k2_noise": ("plugin_layer", "official", dict(layer=1, top_k=2), dict(noise=True)),
    "official_k_all": ("plugin_layer", "official", dict(layer=0, top_k=4), dict(noise=True, b=1)),
    "official_k2_float32": ("plugin_layer", "official", dict(layer=0, top_k=2),
                            dict(noise=True, dtype="f32", extra=True)),
    "official_as_paper": ("plugin_layer", "official",
                          dict(layer=0, top_k=2, gate="l1", noise_floor=0, expert_logits="dot",
                               drop_first=False, combine="weighted", fusion="eq",
                               balance_terms=["importance"], balance_reduce="mean",
                               balance_coef=1), {}),
    "official_initial": ("plugin_layer", "official", dict(layer=0), dict(initial=True)),
    # Scores with 36^2 in them would lose digits in float32, so this one has no attention.
    "official_underflow": ("plugin_layer", "official", dict(layer=0, top_k=2, fusion="local"),
                           dict(noise=True, underflow=True)),
    "official_wide": ("plugin_layer", "official",
                      dict(layers=1, dim=33, tokens=11, rank=4, experts=6, top_k=3, layer=0),
                      dict(noise=True, b=1, n=31)),
    "paper_wide_no_grad": ("plugin_layer", "paper",
                           dict(layers=1, dim=48, tokens=20, rank=5, experts=6, top_k=2, layer=0),
                           dict(b=1, n=37, grad=False)),
    "plugin_paper": ("plugin", "paper", dict(layers=3), dict(n=4)),
    "plugin_paper_noise": ("plugin", "paper", dict(top_k=2, fusion="figure", **BOTH),
                           dict(noise=True, n=5)),
    "plugin_official": ("plugin", "official", dict(layers=3, prefix=0), dict(n=4, b=1)),
    "plugin_official_noise": ("plugin", "official", dict(top_k=2), dict(noise=True, n=5)),
    "plugin_official_initial": ("plugin", "official", dict(layers=3), dict(n=4, initial=True)),
    "plugin_paper_storage": ("plugin", "paper", dict(top_k=2), dict(n=4, b=1, storage=True)),
    "plugin_queries_only": ("plugin", "official", {}, dict(n=2, b=1, cot=["queries"])),
}


def coarse(t):
    """Multiples of 1/8: sums and squares are exact in any order, so a tie is a tie everywhere."""
    return (t * 8).round() / 8


def make_weights(c, g, how):
    l, d, t, r, e, q = (c[k] for k in ("layers", "dim", "tokens", "rank", "experts", "query_dim"))

    def normal(*shape, s=1.0):
        return s * torch.randn(*shape, generator=g, dtype=torch.float64)

    w = {"scale": torch.tensor(0.375, dtype=torch.float64)}
    for i in range(l):
        for k in range(e):
            w[f"experts_a.{i}.{k}"] = normal(t, r, s=0.9)
            w[f"experts_b.{i}.{k}"] = normal(r, d, s=0.8)
        for j in range(2):
            w[f"w_gate.{i}.{j}"] = normal(d, e, s=0.5)
            w[f"w_noise.{i}.{j}"] = normal(d, e, s=0.3)
    for name, rows, columns in [("mlp_token2feat", d, d), ("mlp_delta_f", d, d),
                                ("transform", q, d), ("merge", q, 3 * q)]:
        w[name + ".weight"] = normal(rows, columns, s=columns**-0.5)
        w[name + ".bias"] = normal(rows, s=0.3)
    if how.get("initial"):  # as a training starts: nothing but ties
        for k in w:
            if k.startswith(("experts_b", "w_gate", "w_noise")):
                w[k] = torch.zeros_like(w[k])
        w["scale"] = torch.tensor(0.001, dtype=torch.float64)
    if how.get("ties"):  # experts 1 and 3 are the same place for the gate
        for k in w:
            if k.startswith("w_gate"):
                w[k] = coarse(w[k])
                w[k][:, 3] = w[k][:, 1]
    if how.get("underflow"):  # exp is 0 in both types, also behind a small weight
        w["mlp_token2feat.bias"][2] = -1e8
    if how.get("extra"):
        w["mean"], w["std"] = normal(3), normal(3)
    return {k: v.float().double() for k, v in w.items()}


def make_inputs(module, c, g, how):
    b, n, d, e = how.get("b", 2), how.get("n", 9), c["dim"], c["experts"]

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).float().double()

    x = {}
    for end in [""] if module == "plugin_layer" else [f".{l}" for l in range(c["layers"])]:
        x["visual" + end] = normal(b, c["prefix"] + n, d)
        x["depth" + end] = 0.8 * normal(b, c["depth_prefix"] + n, d)
        if how.get("ties") or how.get("initial"):
            for m in MODALITIES:
                x[m + end] = coarse(x[m + end])
        if how.get("noise"):
            x["noise.visual" + end] = normal(b * n, e)
            x["noise.depth" + end] = normal(b * n, e)
        x["cot.out" + end] = normal(b, c["prefix"] + n, d)
    x["cot.aux_loss"] = normal(1).reshape(()) / c["balance_coef"]
    if module == "plugin":
        x["cot.queries"] = normal(c["tokens"], c["query_dim"])
    wanted = how.get("cot")
    if wanted is not None:
        x = {k: t for k, t in x.items() if not k.startswith("cot.") or k[4:] in wanted}
    return {k: t.float().double() for k, t in x.items()}


def smallest_gap(c, w, x):
    """How far the routing is from a flip, not counting exact ties: float32 must choose the same."""
    gap = math.inf
    for name, t in x.items():
        head, _, end = name.partition(".")
        if head not in MODALITIES:
            continue
        j, l = MODALITIES.index(head), int(end) if end else c["layer"]
        f = t[:, c["prefix"] if j == 0 else c["depth_prefix"]:].reshape(-1, c["dim"])
        h = gate(c, w, l, j, f, x.get(f"noise.{name}"))["logits"].sort(1, descending=True)[0]
        if c["top_k"] < c["experts"]:
            step = h[:, c["top_k"] - 1] - h[:, c["top_k"]]
            gap = min([gap] + step[step > 0].tolist())
    return gap


def make(name, folder):
    short, preset, over, how = CASES[name]
    module = f"spectralmoe.{short}"
    config = {**SIZES, **over}
    c = {**PRESETS[preset], **config}
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    w, x = make_weights(c, g, how), make_inputs(short, c, g, how)
    stored = {k: t.float() for k, t in w.items()}
    if how.get("storage"):  # every floating type that a file may hold
        kinds = [torch.bfloat16, torch.float16, torch.float64, torch.float32]
        stored = {k: (w[k] * 1.000000123).to(kinds[i % 4]) for i, k in enumerate(sorted(w))}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    grad = how.get("grad", True)
    args = dict(module=module, preset=preset, grad=grad, dtype=how.get("dtype", "f64"))
    (folder / "args.json").write_text(json.dumps(args, indent=2) + "\n")
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(stored, folder / "w.safetensors")
    save_file({k: t.float() for k, t in x.items()}, folder / "in.safetensors")
    # The reference reads what the program will read.
    w = {k: t.double() for k, t in load_file(folder / "w.safetensors").items()}
    x = {k: t.double() for k, t in load_file(folder / "in.safetensors").items()}
    ref = run(module, c, w, x, grad)
    assert all(t.isfinite().all() for t in ref.values()), name
    save_file(ref, folder / "ref.safetensors")
    single = run(module, c, {k: t.float() for k, t in w.items()},
                 {k: t.float() for k, t in x.items()}, grad)
    worst = max(((single[k].double() - t).abs().max() / max(1, t.abs().max())).item()
                for k, t in ref.items())
    gap = smallest_gap(c, w, x)
    assert gap > 2e-4 and worst < 2e-5, (name, gap, worst)
    size = max(f.stat().st_size for f in folder.iterdir())
    print(f"{folder.name:44} {len(ref):3} tensors, largest file {size:6}, "
          f"smallest gap {gap:.1e}, the same in float32 {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    parser.add_argument("--check", action="store_true", help="only check the reference")
    args = parser.parse_args()
    torch.set_num_threads(1)
    check_golden()
    for name in [] if args.check else CASES:
        make(name, args.out / f"xray_spectralmoe_{name}")


if __name__ == "__main__":
    main()
