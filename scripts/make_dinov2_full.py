#!/usr/bin/env python3
"""A full-size DINOv2 (ViT-B/14 at 518 x 518, random weights) for a comparison by hand: too large to
be committed. Makes DIR/model (config.json, model.safetensors), DIR/in.safetensors and
DIR/ref.safetensors (transformers, float32, eager attention); with --encode it then runs the example
program and judges every tensor by the tolerance of its dtype: for f32 max |out - ref| at most
1e-4 max(1, max |ref|), for bf16 5e-2 of the same and an rms of at most 3e-2 max(1, rms(ref)).

    python scripts/make_dinov2_full.py DIR --encode build/cpu/bin/encode [--dtype bf16]

Exit status 1 when a tensor is missing, misshapen or beyond the tolerance.
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig,
                          Dinov2WithRegistersModel)

from make_dinov2_fixtures import randomise, reference


def make(folder, args):
    fields = dict(num_hidden_layers=args.layers, image_size=518, patch_size=14)
    if args.registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**fields, num_register_tokens=4))
    else:
        model = Dinov2Model(Dinov2Config(**fields))
    randomise(model, 1)
    with torch.no_grad():  # 24 random residual branches of full strength would grow without bound
        for name, p in model.named_parameters():
            if "lambda1" in name:
                p.mul_(0.4)
    model.save_pretrained(folder / "model")
    h, w = args.size
    g = torch.Generator().manual_seed(2)
    pixels = torch.randn(args.batch, 3, h, w, generator=g)
    save_file({"pixel_values": pixels}, folder / "in.safetensors")
    reference(folder / "model", pixels[:, :, :28, :28])  # warm up
    start = time.perf_counter()
    named = reference(folder / "model", pixels)
    print(f"reference: {time.perf_counter() - start:.2f} s with loading, {args.threads} threads")
    save_file(named, folder / "ref.safetensors")


def compare(out, ref, dtype):
    bad = sorted(set(out) ^ set(ref))
    for name in bad:
        print(f"{name}: only in the {'output' if name in out else 'reference'}")
    worst = 0.0
    print(f"{'tensor':22} {'shape':18} {'max abs':>9} {'max rel':>9} {'rms rel':>9}")
    for name in sorted(set(out) & set(ref)):
        a, b = out[name].double(), ref[name].double()
        if a.shape != b.shape or out[name].dtype != torch.float32:
            print(f"{name}: {out[name].dtype} {tuple(a.shape)}, expected F32 {tuple(b.shape)}")
            bad.append(name)
            continue
        d = (a - b).abs().max().item()
        rel = d / max(1.0, b.abs().max().item())
        rms = (a - b).square().mean().sqrt().item() / max(1.0, b.square().mean().sqrt().item())
        ok = rel <= 1e-4 if dtype == "f32" else rel <= 5e-2 and rms <= 3e-2  # NaN is not ok
        worst = max(worst, rel)
        print(f"{name:22} {str(tuple(a.shape)):18} {d:9.2e} {rel:9.2e} {rms:9.2e}" +
              ("" if ok else "  BEYOND"))
        if not ok:
            bad.append(name)
    print(f"{len(ref)} tensors, {len(bad)} bad, worst {worst:.2e} ({dtype})")
    return not bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encode", type=Path, help="the program to run and compare")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(518, 518), metavar=("H", "W"))
    parser.add_argument("--registers", action="store_true")
    parser.add_argument("--keep", action="store_true", help="use the case that is in the folder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    if not args.keep:
        make(args.folder, args)
    if not args.encode:
        return 0
    command = [
        args.encode, "--model", args.folder / "model", "--input", args.folder / "in.safetensors",
        "--output", args.folder / "out.safetensors", "--dtype", args.dtype, "--threads",
        str(args.threads)
    ]
    start = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True)
    print(f"encode: {time.perf_counter() - start:.2f} s with loading, {args.threads} threads")
    same = compare(load_file(args.folder / "out.safetensors"),
                   load_file(args.folder / "ref.safetensors"), args.dtype)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
