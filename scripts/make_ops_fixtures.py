#!/usr/bin/env python3
"""Golden values of single operations, computed by PyTorch in float64, for tests/parity.

Writes ops_<group>.safetensors. A case `c` in it consists of
  c.in.<i>     the inputs, in the order of the PyTorch call (F64, or I64 for indices and labels)
  c.out        the output; further outputs of the same call are c.out.1, c.out.2, ...
  c.cot        a weight for every element of c.out
  c.grad.<i>   d sum(c.out * c.cot) / d c.in.<i>, for every input that PyTorch differentiates
and __metadata__["c"] is a JSON object with "op" and its parameters. Floating inputs are exactly
representable in float32, so that a float32 test reads the same numbers. Each case has its own seed
(the CRC of its name): adding a case changes no other one. The same versions write the same bytes.

    python scripts/make_ops_fixtures.py [--out tests/parity/fixtures]
"""

import argparse
import json
import math
import struct
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

KINDS = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}


def save(path, tensors, metadata):
    """A safetensors file with sorted metadata: the library's own writer orders them by hash."""
    names = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header, offset, blobs = {"__metadata__": dict(sorted(metadata.items()))}, 0, []
    for n in names:
        t = tensors[n].detach().contiguous()
        blob = t.numpy().tobytes()
        header[n] = {
            "dtype": KINDS[t.dtype], "shape": list(t.shape), "data_offsets":
            [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Group:

    def __init__(self, name):
        self.name, self.tensors, self.metadata = name, {}, {}

    def add(self, case, op, fn, operands, /, grad=True, **params):
        """Runs fn(*operands). An operand is a shape (normal numbers), a function of the
        generator, or a tensor."""
        assert case not in self.metadata, case
        g = torch.Generator().manual_seed(zlib.crc32(case.encode()))
        xs = []
        for x in operands:
            if isinstance(x, (list, tuple)):
                x = torch.randn(*x, generator=g, dtype=torch.float64)
            elif callable(x):
                x = x(g)
            if x.is_floating_point():
                x = x.float().double().requires_grad_(grad)
            xs.append(x)
        out = fn(*xs)
        outs = list(out) if isinstance(out, (list, tuple)) else [out]
        self.metadata[case] = json.dumps({"op": op, **params})
        for i, x in enumerate(xs):
            self.tensors[f"{case}.in.{i}"] = x.detach().clone()
        for i, o in enumerate(outs):
            self.tensors[f"{case}.out" + (f".{i}" if i else "")] = o.detach().clone()
        if grad and outs[0].is_floating_point():
            cot = torch.randn(outs[0].shape, generator=g, dtype=torch.float64).float().double()
            leaves = [(i, x) for i, x in enumerate(xs) if x.is_floating_point()]
            ds = torch.autograd.grad((outs[0] * cot).sum(), [x for _, x in leaves],
                                     allow_unused=True)
            self.tensors[f"{case}.cot"] = cot
            for (i, x), d in zip(leaves, ds):
                if d is not None:
                    self.tensors[f"{case}.grad.{i}"] = d


def integers(high, *shape, low=0):
    return lambda g: torch.randint(low, high, shape, generator=g)


def uniform(*shape):
    return lambda g: torch.rand(*shape, generator=g, dtype=torch.float64)


def scaled(factor, *shape):
    return lambda g: factor * torch.randn(*shape, generator=g, dtype=torch.float64)


def binary(*shape):
    return lambda g: torch.randint(0, 2, shape, generator=g).double()


def conv():
    s = Group("conv")

    def c2(case, x, w, bias=True, **p):
        s.add(case, "conv2d", lambda *a: F.conv2d(*a, **p), [x, w] + ([(w[0],)] if bias else []),
              **p)

    c2("plain", (2, 3, 7, 6), (4, 3, 3, 3))
    c2("no_bias", (1, 2, 5, 5), (3, 2, 2, 2), bias=False)
    c2("same_padding", (2, 3, 6, 5), (4, 3, 3, 3), padding=1)
    c2("stride_two_ways", (1, 3, 9, 8), (2, 3, 3, 2), stride=(2, 3), padding=(1, 0))
    c2("dilation", (1, 2, 9, 10), (3, 2, 3, 3), dilation=(2, 3), padding=(2, 3))
    c2("everything", (2, 4, 11, 9), (6, 2, 3, 2),
       stride=(2, 1),
       padding=(2, 1),
       dilation=(1, 2),
       groups=2)
    c2("depthwise", (2, 5, 6, 7), (5, 1, 3, 3), padding=1, groups=5)
    c2("depthwise_multiplier", (1, 3, 6, 7), (6, 1, 3, 3), padding=1, groups=3, stride=2)
    c2("pointwise", (2, 5, 4, 3), (7, 5, 1, 1))
    c2("pointwise_stride", (1, 4, 5, 6), (3, 4, 1, 1), stride=2)
    c2("patches", (2, 3, 12, 8), (5, 3, 4, 4), stride=4)
    c2("patches_remainder", (1, 3, 14, 9), (5, 3, 4, 4), stride=4)
    c2("kernel_larger_than_input", (1, 2, 3, 2), (2, 2, 5, 4), padding=(2, 2))

    def ct(case, x, w, bias=True, **p):
        s.add(case, "conv_transpose2d", lambda *a: F.conv_transpose2d(*a, **p),
              [x, w] + ([(w[1] * p.get("groups", 1),)] if bias else []), **p)

    ct("t_plain", (2, 3, 4, 5), (3, 2, 3, 3))
    ct("t_double", (2, 4, 3, 5), (4, 3, 2, 2), stride=2)
    ct("t_no_bias", (1, 2, 3, 3), (2, 3, 2, 3), bias=False, stride=(2, 1))
    ct("t_padding", (1, 3, 5, 4), (3, 2, 4, 4), stride=2, padding=1)
    ct("t_output_padding", (1, 2, 4, 5), (2, 3, 3, 3),
       stride=(2, 3),
       padding=1,
       output_padding=(1, 2))
    ct("t_groups", (2, 4, 3, 4), (4, 3, 3, 2), stride=2, padding=(1, 0), groups=2)
    ct("t_dilation", (1, 2, 4, 3), (2, 2, 3, 3), stride=2, padding=1, dilation=2)
    ct("t_depthwise", (1, 3, 4, 4), (3, 1, 4, 4), stride=2, padding=1, groups=3)
    return s


def pool():
    s = Group("pool")
    for case, x, p in [
        ("max_plain", (2, 3, 6, 8), dict(kernel_size=2, stride=2)),
        ("max_padding", (2, 2, 7, 9), dict(kernel_size=3, stride=2, padding=1)),
        ("max_overlap", (1, 2, 6, 7), dict(kernel_size=(3, 2), stride=(1, 2), padding=(1, 0))),
        ("max_dilation", (1, 2, 9, 9), dict(kernel_size=3, stride=1, padding=1, dilation=2)),
        ("max_remainder", (1, 2, 7, 5), dict(kernel_size=2, stride=2))
    ]:
        s.add(case, "max_pool2d", lambda a, p=p: F.max_pool2d(a, **p), [x], **p)
    # An image of negative numbers: a padding of zeros would win.
    s.add("max_negative",
          "max_pool2d",
          lambda a: F.max_pool2d(a, 3, 2, 1),
          [lambda g: -1 - torch.rand(1, 2, 5, 5, generator=g, dtype=torch.float64)],
          kernel_size=3,
          stride=2,
          padding=1)
    for case, x, p in [("avg_plain", (2, 3, 6, 8), dict(kernel_size=2, stride=2)),
                       ("avg_padding_counted", (1, 2, 7, 6),
                        dict(kernel_size=3, stride=2, padding=1, count_include_pad=True)),
                       ("avg_padding_not_counted", (1, 2, 7, 6),
                        dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)),
                       ("avg_two_ways", (1, 2, 8, 9),
                        dict(kernel_size=(2, 3), stride=(1, 2), padding=(1, 0))),
                       ("avg_remainder", (1, 2, 7, 5), dict(kernel_size=2, stride=2))]:
        s.add(case, "avg_pool2d", lambda a, p=p: F.avg_pool2d(a, **p), [x], **p)
    for case, x, o in [("adaptive_even", (2, 3, 8, 6), (4, 3)),
                       ("adaptive_ragged", (1, 2, 7, 10), (3, 4)),
                       ("adaptive_one", (2, 3, 5, 7), (1, 1)),
                       ("adaptive_up", (1, 2, 3, 4), (5, 6))]:
        s.add(case,
              "adaptive_avg_pool2d",
              lambda a, o=o: F.adaptive_avg_pool2d(a, o), [x],
              output_size=o)
    return s


SIZES = [("up", (1, 2, 4, 5), (9, 13)), ("down", (1, 2, 11, 9), (5, 4)),
         ("mixed", (1, 2, 5, 12), (11, 5)), ("same", (1, 1, 4, 3), (4, 3)),
         ("to_one", (1, 2, 5, 4), (1, 1)), ("from_one", (1, 2, 1, 1), (3, 4)),
         ("double", (2, 1, 3, 4), (6, 8)), ("half", (1, 1, 8, 6), (4, 3))]
SCALES = [("up", (1, 2, 4, 5), (2.3, 1.7)), ("down", (1, 2, 11, 9), (0.45, 0.62)),
          ("mixed", (1, 2, 5, 12), (2.25, 0.4)), ("offset", (1, 1, 7, 7), (5.1 / 7, 9.1 / 7))]


def resize(mode):
    s = Group("resize_" + mode)

    def one(case, x, **p):
        s.add(case, "interpolate", lambda a: F.interpolate(a, mode=mode, **p), [x], mode=mode, **p)

    for corners in (False, True):
        tag = "corners" if corners else "plain"
        for n, x, size in SIZES:
            one(f"{tag}_size_{n}", x, size=size, align_corners=corners)
        for n, x, scale in SCALES:
            one(f"{tag}_scale_{n}", x, scale_factor=scale, align_corners=corners)
    for n, x, size in SIZES + [("far_down", (1, 1, 19, 23), (3, 4))]:
        one(f"antialias_size_{n}", x, size=size, align_corners=False, antialias=True)
    return s


def resize_other():
    s = Group("resize_other")
    for mode in ("nearest", "nearest-exact", "area"):
        for n, x, size in SIZES:
            s.add(f"{mode}_size_{n}",
                  "interpolate",
                  lambda a, m=mode, o=size: F.interpolate(a, size=o, mode=m), [x],
                  mode=mode,
                  size=size)
    for mode in ("nearest", "nearest-exact"):
        for n, x, scale in SCALES:
            s.add(f"{mode}_scale_{n}",
                  "interpolate",
                  lambda a, m=mode, r=scale: F.interpolate(a, scale_factor=r, mode=m), [x],
                  mode=mode,
                  scale_factor=scale)
    return s


def norm():
    s = Group("norm")
    s.add("layer_norm",
          "layer_norm",
          lambda x, w, b: F.layer_norm(x, (7,), w, b, 1e-6), [(2, 3, 7), (7,), (7,)],
          normalized_shape=[7],
          eps=1e-6)
    s.add("layer_norm_plain",
          "layer_norm",
          lambda x: F.layer_norm(x, (5,), eps=1e-5), [(4, 5)],
          normalized_shape=[5],
          eps=1e-5)
    s.add("layer_norm_two_axes",
          "layer_norm",
          lambda x, w, b: F.layer_norm(x, (3, 4), w, b), [(2, 3, 4), (3, 4), (3, 4)],
          normalized_shape=[3, 4],
          eps=1e-5)
    # A large common offset: the variance must not be E(x^2) - E(x)^2.
    s.add("layer_norm_offset",
          "layer_norm",
          lambda x: F.layer_norm(x, (16,), eps=1e-6),
          [lambda g: 1000 + torch.randn(3, 16, generator=g, dtype=torch.float64)],
          normalized_shape=[16],
          eps=1e-6)
    s.add("layer_norm_constant_row",
          "layer_norm",
          lambda x, w, b: F.layer_norm(x, (6,), w, b, 1e-6),
          [torch.full((2, 6), 0.75, dtype=torch.float64), (6,), (6,)],
          normalized_shape=[6],
          eps=1e-6)
    s.add("group_norm",
          "group_norm",
          lambda x, w, b: F.group_norm(x, 3, w, b), [(2, 6, 4, 5), (6,), (6,)],
          num_groups=3,
          eps=1e-5)
    s.add("group_norm_one_group",
          "group_norm",
          lambda x, w, b: F.group_norm(x, 1, w, b), [(2, 4, 3, 2), (4,), (4,)],
          num_groups=1,
          eps=1e-5)
    s.add("group_norm_per_channel",
          "group_norm",
          lambda x: F.group_norm(x, 4, eps=1e-3), [(2, 4, 3, 3)],
          num_groups=4,
          eps=1e-3)

    def batch_norm(training, momentum, eps):

        def run(x, w, b, mean, var):
            m, v = mean.detach().clone(), var.detach().clone()
            y = F.batch_norm(x, m, v, w, b, training, momentum, eps)
            return (y, m, v) if training else y

        return run

    for case, shape, training in [("batch_norm_train", (3, 4, 5, 2), True),
                                  ("batch_norm_eval", (3, 4, 5, 2), False),
                                  ("batch_norm_train_rows", (6, 3), True),
                                  ("batch_norm_eval_rows", (6, 3), False)]:
        c = shape[1]
        s.add(
            case,
            "batch_norm",
            batch_norm(training, 0.1, 1e-5), [shape, (c,), (c,),
                                              (c,), uniform(c)],
            training=training,
            momentum=0.1,
            eps=1e-5,
            inputs=["x", "weight", "bias", "running_mean", "running_var"],
            outputs=["y", "new running_mean", "new running_var (unbiased)"] if training else ["y"])
    s.add("group_norm_offset",
          "group_norm",
          lambda x, w, b: F.group_norm(x, 2, w, b),
          [lambda g: 500 + torch.randn(1, 4, 3, 3, generator=g, dtype=torch.float64), (4,), (4,)],
          num_groups=2,
          eps=1e-5)
    return s


def pointwise():
    s = Group("pointwise")
    grid = torch.cat([
        torch.linspace(-9, 9, 73, dtype=torch.float64),
        torch.tensor([1e-6, -1e-6, 30.0, -30.0, 100.0, -100.0])
    ])
    for name, fn in [("gelu", lambda x: F.gelu(x)),
                     ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
                     ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)), ("silu", F.silu),
                     ("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("softplus", F.softplus),
                     ("log_sigmoid", F.logsigmoid), ("erf", torch.erf), ("relu", F.relu),
                     ("relu6", F.relu6)]:
        s.add(name, name, fn, [grid])
    positive = torch.logspace(-6, 4, 41, dtype=torch.float64)
    for name, fn in [("log", torch.log), ("sqrt", torch.sqrt), ("rsqrt", torch.rsqrt),
                     ("log1p", torch.log1p)]:
        s.add(name, name, fn, [positive])
    for name, fn in [("softmax", F.softmax), ("log_softmax", F.log_softmax),
                     ("logsumexp", torch.logsumexp)]:
        s.add(f"{name}_last", name, lambda x, f=fn: f(x, dim=-1), [(3, 4, 7)], dim=-1)
        s.add(f"{name}_middle", name, lambda x, f=fn: f(x, dim=1), [(2, 5, 3)], dim=1)
        s.add(f"{name}_first", name, lambda x, f=fn: f(x, dim=0), [(6, 4)], dim=0)
        s.add(f"{name}_large", name, lambda x, f=fn: f(x, dim=-1), [scaled(500.0, 4, 9)], dim=-1)
        s.add(f"{name}_one", name, lambda x, f=fn: f(x, dim=-1), [(5, 1)], dim=-1)
    s.add("softmax_masked",
          "softmax",
          lambda x: F.softmax(x, dim=-1),
          [torch.tensor([[0.5, -math.inf, 1.0], [-math.inf, -math.inf, 2.0]], dtype=torch.float64)],
          dim=-1)
    return s


def loss():
    s = Group("loss")
    weights = lambda g: torch.rand(5, generator=g, dtype=torch.float64) + 0.2

    def labels(*shape, ignore=None):

        def make(g):
            y = torch.randint(0, 5, shape, generator=g)
            if ignore is not None:
                y[torch.rand(shape, generator=g) < 0.3] = ignore
            return y

        return make

    for reduction in ("mean", "sum"):
        for case, x, y, w, ignore in [("rows", (6, 5), labels(6), None, -100),
                                      ("image", (2, 5, 3, 4), labels(2, 3, 4), None, -100),
                                      ("image_ignore", (2, 5, 3, 4), labels(2, 3, 4,
                                                                            ignore=255), None, 255),
                                      ("image_ignore_weights", (2, 5, 3, 4),
                                       labels(2, 3, 4, ignore=255), weights, 255),
                                      ("ignore_a_class", (8, 5), labels(8), weights, 0),
                                      ("large_logits", scaled(300.0, 6, 5), labels(6), None, -100)]:
            if w is None:
                fn = lambda a, b, i=ignore, r=reduction: F.cross_entropy(
                    a, b, ignore_index=i, reduction=r)
            else:
                fn = lambda a, b, c, i=ignore, r=reduction: F.cross_entropy(
                    a, b, c.detach(), ignore_index=i, reduction=r)
            s.add(f"cross_entropy_{case}_{reduction}",
                  "cross_entropy",
                  fn, [x, y] + ([w] if w else []),
                  ignore_index=ignore,
                  reduction=reduction,
                  inputs=["logits", "labels", "class weights"][:3 if w else 2])
        s.add(f"bce_{reduction}",
              "bce_with_logits",
              lambda a, b, r=reduction: F.binary_cross_entropy_with_logits(a, b, reduction=r),
              [scaled(20.0, 4, 5), uniform(4, 5)],
              reduction=reduction)
        s.add(f"bce_weights_{reduction}",
              "bce_with_logits",
              lambda a, b, w, p, r=reduction: F.binary_cross_entropy_with_logits(
                  a, b, w.detach(), pos_weight=p.detach(), reduction=r),
              [(4, 5), binary(4, 5), uniform(4, 5), uniform(5)],
              reduction=reduction,
              inputs=["logits", "targets", "weight", "pos_weight"])
        for beta in (1.0, 0.25):
            s.add(f"smooth_l1_{beta}_{reduction}",
                  "smooth_l1",
                  lambda a, b, t=beta, r=reduction: F.smooth_l1_loss(a, b, beta=t, reduction=r),
                  [(5, 4), (5, 4)],
                  beta=beta,
                  reduction=reduction)
        s.add(f"mse_{reduction}",
              "mse",
              lambda a, b, r=reduction: F.mse_loss(a, b, reduction=r), [(5, 4), (5, 4)],
              reduction=reduction)

    def dice(p, q, eps):
        overlap, total = (p * q).sum(-1), p.sum(-1) + q.sum(-1)
        return (1 - (2 * overlap + eps) / (total + eps)).mean()

    text = "mean over rows of 1 - (2 sum pq + eps) / (sum p + sum q + eps)"
    for eps in (1.0, 1e-6):
        s.add(f"dice_{eps}",
              "dice",
              lambda p, q, e=eps: dice(p, q, e), [uniform(3, 12), binary(3, 12)],
              eps=eps,
              formula=text)
        s.add(f"dice_logits_{eps}",
              "dice",
              lambda x, q, e=eps: dice(torch.sigmoid(x), q, e), [(3, 12), binary(3, 12)],
              eps=eps,
              formula=text + ", p = sigmoid(in.0)")
    s.add("dice_empty",
          "dice",
          lambda x, q: dice(torch.sigmoid(x), q, 1.0),
          [torch.full((2, 6), -40.0, dtype=torch.float64),
           torch.zeros(2, 6, dtype=torch.float64)],
          eps=1.0,
          formula=text + ", p = sigmoid(in.0)")

    def focal(x, t, alpha, gamma, reduction):
        p = torch.sigmoid(x)
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        value = ce * (1 - (p * t + (1 - p) * (1 - t)))**gamma
        if alpha >= 0:
            value = (alpha * t + (1 - alpha) * (1 - t)) * value
        return value.mean() if reduction == "mean" else value.sum()

    for alpha, gamma, reduction in [(0.25, 2.0, "mean"), (0.25, 2.0, "sum"), (-1.0, 2.0, "mean"),
                                    (0.6, 1.5, "mean"), (0.25, 0.0, "mean")]:
        s.add(f"focal_a{alpha}_g{gamma}_{reduction}",
              "focal",
              lambda x, t, a=alpha, g=gamma, r=reduction: focal(x, t, a, g, r),
              [(4, 6), binary(4, 6)],
              alpha=alpha,
              gamma=gamma,
              reduction=reduction,
              formula="bce_with_logits * (1-p_t)^gamma * alpha_t; p_t = p t + (1-p)(1-t), "
              "alpha_t likewise; alpha < 0: no alpha_t")
    return s


def attention():
    s = Group("attention")
    sdpa = F.scaled_dot_product_attention
    s.add("plain", "sdpa", sdpa, [(2, 3, 5, 4)] * 3)
    s.add("cross", "sdpa", sdpa, [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 6)])
    s.add("scale", "sdpa", lambda q, k, v: sdpa(q, k, v, scale=0.3), [(1, 2, 5, 3)] * 3, scale=0.3)
    s.add("causal",
          "sdpa",
          lambda q, k, v: sdpa(q, k, v, is_causal=True), [(1, 2, 6, 4)] * 3,
          causal=True)
    s.add("additive_mask",
          "sdpa",
          lambda q, k, v, m: sdpa(q, k, v, attn_mask=m), [(1, 2, 4, 3), (1, 2, 6, 3), (1, 2, 6, 3),
                                                          (1, 2, 4, 6)],
          mask="added to the scores; in.3")

    def mask(g):
        m = torch.randint(0, 2, (4, 6), generator=g)
        m[:, 2] = 1  # no row without a key
        return m

    s.add("boolean_mask",
          "sdpa",
          lambda q, k, v, m: sdpa(q, k, v, attn_mask=m.bool()), [(1, 2, 4, 3), (1, 2, 6, 3),
                                                                 (1, 2, 6, 3), mask],
          mask="1: may look, 0: may not; in.3 (I64, queries x keys)")
    s.add("bias_of_heads",
          "sdpa",
          lambda q, k, v, m: sdpa(q, k, v, attn_mask=m.unsqueeze(0)), [(2, 3, 5, 4), (2, 3, 7, 4),
                                                                       (2, 3, 7, 6), (3, 5, 7)],
          bias="added to the scores; in.3 (heads, queries, keys)")

    def key_mask(g):
        m = torch.randint(0, 2, (3, 11), generator=g)
        m[1] = 0  # a product that may look at nothing: zeros
        return m

    s.add("key_mask",
          "sdpa",
          lambda q, k, v, m: sdpa(q, k, v, attn_mask=m.bool()[:, None, None, :]),
          [(3, 2, 11, 4)] * 3 + [key_mask],
          key_mask="1: may be looked at, 0: may not; in.3 (I64, products x keys)")
    s.add("key_counts",
          "sdpa",
          lambda q, k, v, n: sdpa(
              q, k, v, attn_mask=(torch.arange(21) < n[:, None])[:, None, None, :]),
          [(4, 1, 5, 3), (4, 1, 21, 3), (4, 1, 21, 2), lambda g: torch.tensor([21, 0, 17, 1])],
          keys="how many of the keys are there; in.3 (I64, products)")
    s.add("relative",
          "sdpa",
          lambda q, k, v, h, w: sdpa(
              q, k, v, attn_mask=(h[..., :, None] + w[..., None, :]).flatten(-2)),
          [(2, 2, 12, 4)] * 3 + [(2, 2, 12, 4), (2, 2, 12, 3)],
          relative="keys are a map of 4 rows and 3 columns; in.3 (..., rows), in.4 (..., columns)")
    s.add("large_scores", "sdpa", sdpa, [scaled(30.0, 1, 2, 5, 8)] * 2 + [(1, 2, 5, 8)])
    s.add("one_key", "sdpa", sdpa, [(1, 2, 3, 4), (1, 2, 1, 4), (1, 2, 1, 4)])
    s.add("many_keys", "sdpa", sdpa, [(1, 1, 3, 4), (1, 1, 197, 4), (1, 1, 197, 4)])
    return s


def index():
    s = Group("index")
    s.add("embedding", "embedding", lambda i, w: F.embedding(i, w), [integers(6, 3, 4), (6, 5)])
    s.add("gather_rows", "gather", lambda x, i: x.gather(0, i), [(5, 4), integers(5, 3, 4)], dim=0)
    s.add("gather_columns",
          "gather",
          lambda x, i: x.gather(1, i), [(3, 6), integers(6, 3, 9)],
          dim=1)
    s.add("gather_deep",
          "gather",
          lambda x, i: x.gather(-1, i), [(2, 3, 5), integers(5, 2, 3, 2)],
          dim=-1)
    s.add("scatter_add_rows",
          "scatter_add",
          lambda x, i, y: x.scatter_add(0, i, y), [(4, 3), integers(4, 6, 3), (6, 3)],
          dim=0)
    s.add("scatter_add_deep",
          "scatter_add",
          lambda x, i, y: x.scatter_add(2, i, y),
          [(2, 3, 4), integers(4, 2, 3, 7), (2, 3, 7)],
          dim=2)
    s.add("index_select_rows",
          "index_select",
          lambda x, i: x.index_select(0, i), [(5, 3), integers(5, 8)],
          dim=0)
    s.add("index_select_deep",
          "index_select",
          lambda x, i: x.index_select(1, i), [(2, 4, 3), integers(4, 6)],
          dim=1)
    s.add("index_add_rows",
          "index_add",
          lambda x, i, y: x.index_add(0, i, y), [(4, 3), integers(4, 7), (7, 3)],
          dim=0)
    for k in (1, 3, 6):
        s.add(f"topk_{k}",
              "topk",
              lambda x, k=k: torch.topk(x, k, dim=-1), [(4, 6)],
              dim=-1,
              k=k,
              largest=True,
              sorted=True)
    s.add("topk_smallest",
          "topk",
          lambda x: torch.topk(x, 2, dim=-1, largest=False), [(4, 6)],
          dim=-1,
          k=2,
          largest=False,
          sorted=True)
    s.add("topk_middle",
          "topk",
          lambda x: torch.topk(x, 2, dim=1), [(2, 5, 3)],
          dim=1,
          k=2,
          largest=True,
          sorted=True)
    tied = torch.tensor([[1.0, 3.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    s.add("argsort_stable",
          "argsort",
          lambda x: torch.argsort(x, dim=-1, stable=True), [tied],
          grad=False,
          dim=-1,
          descending=False,
          stable=True)
    s.add("argsort_stable_descending",
          "argsort",
          lambda x: torch.argsort(x, dim=-1, descending=True, stable=True), [tied],
          grad=False,
          dim=-1,
          descending=True,
          stable=True)
    s.add("one_hot",
          "one_hot",
          lambda i: F.one_hot(i, 5), [integers(5, 2, 3)],
          grad=False,
          num_classes=5)
    s.add("roll_two",
          "roll",
          lambda x: torch.roll(x, (2, -1), (1, 2)), [(2, 5, 4)],
          shifts=[2, -1],
          dims=[1, 2])
    s.add("roll_far", "roll", lambda x: torch.roll(x, 11, 0), [(4, 3)], shifts=[11], dims=[0])
    pad = "from the last axis backwards: (left, right, top, bottom, ...)"
    for case, x, p in [("constant", (2, 2, 3, 4), (1, 2, 0, 3)),
                       ("constant_crop", (1, 2, 5, 5), (-1, 2, 1, -2)),
                       ("constant_channels", (1, 2, 3, 3), (0, 1, 0, 0, 1, 0))]:
        s.add(f"pad_{case}",
              "pad",
              lambda a, p=p: F.pad(a, p, value=0.5), [x],
              pad=p,
              mode="constant",
              value=0.5,
              order=pad)
    for mode in ("reflect", "replicate"):
        s.add(f"pad_{mode}",
              "pad",
              lambda a, m=mode: F.pad(a, (2, 1, 0, 3), mode=m), [(1, 2, 4, 5)],
              pad=(2, 1, 0, 3),
              mode=mode,
              order=pad)
    s.add("pad_reflect_most",
          "pad",
          lambda a: F.pad(a, (3, 3, 2, 2), mode="reflect"), [(1, 1, 3, 4)],
          pad=(3, 3, 2, 2),
          mode="reflect",
          order=pad)
    s.add("cumsum", "cumsum", lambda x: torch.cumsum(x, 1), [(3, 5)], dim=1)
    return s


def optim():
    s = Group("optim")

    def adamw(steps, **p):

        def run(w, grads):
            w = w.detach().clone().requires_grad_(True)
            o = torch.optim.AdamW([w], **p)
            seen = []
            for t in range(steps):
                w.grad = grads[t].detach().clone()
                o.step()
                seen.append(w.detach().clone())
            state = o.state[w]
            return torch.stack(seen), state["exp_avg"], state["exp_avg_sq"]

        return run

    for case, p in [("adamw", dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)),
                    ("adamw_no_decay", dict(lr=3e-3, betas=(0.8, 0.95), eps=1e-6,
                                            weight_decay=0.0)),
                    ("adamw_large_decay",
                     dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5))]:
        s.add(case,
              "adamw",
              adamw(5, **p), [(3, 4), (5, 3, 4)],
              grad=False,
              steps=5,
              inputs=["weight", "gradient of each step"],
              outputs=["weight after each step", "exp_avg", "exp_avg_sq"],
              **p)
    # The second gradient is zero throughout: no division by zero, only decay moves the weight.
    s.add("adamw_zero_gradient",
          "adamw",
          adamw(3, lr=1e-2, weight_decay=0.1), [(4,), torch.zeros(3, 4, dtype=torch.float64)],
          grad=False,
          steps=3,
          lr=1e-2,
          betas=(0.9, 0.999),
          eps=1e-8,
          weight_decay=0.1)

    def clip(limit):

        def run(*grads):
            ws = [torch.zeros_like(g) for g in grads]
            for w, g in zip(ws, grads):
                w.grad = g.detach().clone()
            total = torch.nn.utils.clip_grad_norm_(ws, limit)
            return [total] + [w.grad for w in ws]

        return run

    for case, limit in [("clip_active", 0.5), ("clip_idle", 100.0)]:
        s.add(case,
              "clip_grad_norm",
              clip(limit), [(3, 4), (5,), (2, 2)],
              grad=False,
              max_norm=limit,
              outputs=["total norm before", "clipped gradients..."],
              formula="g * min(1, max_norm / (norm + 1e-6))")

    def schedule(fn, steps, base):
        w = torch.zeros(1, requires_grad=True)
        o = torch.optim.SGD([w], lr=base)
        sched = torch.optim.lr_scheduler.LambdaLR(o, fn)
        seen = []
        for _ in range(steps):
            seen.append(sched.get_last_lr()[0])
            o.step()
            sched.step()
        return torch.tensor(seen, dtype=torch.float64)

    steps, base = 20, 2e-3
    for warm in (0, 5):
        up = lambda t, w=warm: (t + 1) / w
        poly = lambda t, w=warm: up(t) if t < w else (1 - (t - w) / (steps - w))**0.9
        floor = 0.1
        cosine = lambda t, w=warm: (up(t) if t < w else floor + (1 - floor) * 0.5 *
                                    (1 + math.cos(math.pi * (t - w) / (steps - w))))
        s.add(f"poly_warm{warm}",
              "poly",
              lambda t, f=poly: schedule(f, steps, base), [torch.arange(steps)],
              grad=False,
              steps=steps,
              base=base,
              warmup=warm,
              power=0.9,
              formula=
              "step t < warmup: base (t+1)/warmup; else base (1 - (t-warmup)/(steps-warmup))^power")
        s.add(f"cosine_warm{warm}",
              "cosine",
              lambda t, f=cosine: schedule(f, steps, base), [torch.arange(steps)],
              grad=False,
              steps=steps,
              base=base,
              warmup=warm,
              floor=floor,
              formula="step t < warmup: base (t+1)/warmup; else "
              "base (floor + (1-floor) (1 + cos(pi (t-warmup)/(steps-warmup)))/2)")
    return s


def deform():
    """Deformable attention as its definition by grid_sample: no place lies on a kink."""
    s = Group("deform")

    def op(value, places, weights, grids):
        b, _, h, d = value.shape
        q = places.shape[1]
        levels = value.split([r * c for r, c in grids], 1)
        y = 0
        for i, (rows, columns) in enumerate(grids):
            plane = levels[i].permute(0, 2, 3, 1).reshape(b * h, d, rows, columns)
            at = (2 * places[:, :, :, i] - 1).transpose(1, 2).flatten(0, 1)  # (B*H,Q,P,2)
            got = F.grid_sample(plane, at, mode="bilinear", padding_mode="zeros",
                                align_corners=False)  # (B*H,D,Q,P)
            a = weights[:, :, :, i].transpose(1, 2).reshape(b * h, 1, q, -1)
            y = y + (got * a).sum(-1)
        return y.view(b, h, d, q).permute(0, 3, 1, 2).reshape(b, q, h * d)

    def case(name, batch, queries, heads, size, points, grids, spread):
        tokens = sum(r * c for r, c in grids)
        s.add(name, "deform_attention", lambda *x: op(*x, grids), [
            (batch, tokens, heads, size),
            lambda g: 0.5 + spread * (torch.rand(batch, queries, heads, len(grids), points, 2,
                                                 generator=g, dtype=torch.float64) - 0.5),
            (batch, queries, heads, len(grids), points)
        ], grids=[v for g in grids for v in g])

    case("inside", 1, 5, 2, 4, 3, [(6, 5)], 0.6)
    case("levels", 2, 7, 2, 8, 4, [(8, 7), (4, 3), (2, 2)], 1.0)
    case("beyond", 1, 9, 3, 5, 4, [(3, 4), (1, 2)], 2.0)
    return s


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # one order of summation
    for group in [
            conv(),
            pool(),
            resize("bilinear"),
            resize("bicubic"),
            resize_other(),
            norm(),
            pointwise(),
            loss(),
            attention(),
            index(),
            optim(),
            deform()
    ]:
        path = out / f"ops_{group.name}.safetensors"
        save(path, group.tensors, group.metadata)
        print(f"{path.name}: {len(group.metadata)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
