#!/usr/bin/env python3
"""The encoder against PyTorch, forward by forward in turn, so that both meet the same machine.

    python3 -m venv ~/peers && ~/peers/bin/pip install torch transformers
    ~/peers/bin/python bench/peers/run.py [--threads 2] [--runs 9] [--small] [--build build/cpu]

Both run DINOv2 ViT-B/14 on one image of 518 x 518 in float32. Prints medians and the ratio of each
pair; above 1 means that moraine is faster. Needs the benchmarks:
cmake --build --preset cpu --target benchmarks.
"""
import argparse
import statistics
import subprocess
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--build", default=str(Path(__file__).resolve().parents[2] / "build/cpu"))
    o = parser.parse_args()

    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(o.threads)
    size = dict(hidden_size=384, num_attention_heads=6) if o.small else {}
    config = Dinov2Config(image_size=518, patch_size=14, **size)
    models = {}
    for kind in ("eager", "sdpa"):
        model = Dinov2Model(config).eval()
        model.set_attn_implementation(kind)
        models[kind] = model
    pixels = torch.randn(1, 3, 518, 518)

    ours = subprocess.Popen(
        [f"{o.build}/bench/encoder", "--serve", "--threads", str(o.threads)] + (["--small"] if o.small else []),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert ours.stdout.readline() == "ready\n"

    def moraine() -> float:
        ours.stdin.write("\n")
        ours.stdin.flush()
        return float(ours.stdout.readline())

    def peer(model) -> float:
        with torch.inference_mode():
            begin = time.perf_counter()
            model(pixels)
            return time.perf_counter() - begin

    for model in models.values():
        peer(model)
    rows = []
    for _ in range(o.runs):
        rows.append((moraine(), peer(models["eager"]), peer(models["sdpa"])))
    ours.stdin.close()
    name = "ViT-S/14" if o.small else "ViT-B/14"
    print(f"{name}, 518 x 518, float32, {o.threads} threads, torch {torch.__version__}, {o.runs} runs in turn")
    columns = list(zip(*rows))
    for label, values in zip(("moraine", "PyTorch eager", "PyTorch sdpa"), columns):
        ratio = statistics.median(v / m for v, m in zip(values, columns[0]))
        print(f"  {label:14} median {statistics.median(values):.3f} s, least {min(values):.3f} s, x{ratio:.2f}")


if __name__ == "__main__":
    main()
