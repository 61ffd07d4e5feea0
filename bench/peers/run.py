#!/usr/bin/env python3
"""The encoder against the competition, pass by pass in turn, so that all meet the same machine.

    python3 -m venv ~/peers
    ~/peers/bin/pip install torch transformers openvino onnxruntime onnx onnxscript
    ~/peers/bin/python bench/peers/run.py [--model s b l] [--work forward train lora]
        [--threads 2] [--runs 9] [--build build/cpu]

All run DINOv2's ViT-S/14, B/14 or L/14 on one image of 518 x 518 in float32, with weights of one
distribution. Prints medians, and for every peer the median of the ratios of passes that lie next to
each other; above 1 means that moraine is faster. A peer that is not installed is left out, and the
table says so. `train` is forward and backward of all parameters, `lora` of rank 16 on qkv of a
frozen model; only PyTorch does these. Needs the benchmarks:
cmake --build --preset cpu --target benchmarks.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {
    "s": ("ViT-S/14", dict(hidden_size=384, num_attention_heads=6)),
    "b": ("ViT-B/14", dict()),
    "l": ("ViT-L/14", dict(hidden_size=1024, num_attention_heads=16, num_hidden_layers=24)),
}


def ours(build, model, work, threads):
    command = [f"{build}/bench/encoder", "--serve", "--model", model, "--work", work]
    process = subprocess.Popen(
        [*command, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline() != "ready\n":
        sys.exit("run.py: " + " ".join(command) + " did not start")

    def once():
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline().split()[0])

    return once


def timed(pass_over):
    def once():
        begin = time.perf_counter()
        pass_over()
        return time.perf_counter() - begin

    return once


class Lora:
    """Puts rank-16 adapters beside query, key and value of every block; all else is frozen. Three
    products of a third of the width are what our one fused product is."""

    def __new__(cls, model):
        import torch

        class Adapted(torch.nn.Module):
            def __init__(self, base, rank=16):
                super().__init__()
                self.base = base
                self.a = torch.nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
                self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank))

            def forward(self, x):
                return self.base(x) + (x @ self.a.T) @ self.b.T

        for p in model.parameters():
            p.requires_grad_(False)
        for module in model.modules():
            for name in ("q_proj", "k_proj", "v_proj"):
                if isinstance(getattr(module, name, None), torch.nn.Linear):
                    setattr(module, name, Adapted(getattr(module, name)))
        return model


def torch_peers(model, work, threads, keep):
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(threads)
    config = Dinov2Config(image_size=518, patch_size=14, **SIZES[model][1])
    pixels = torch.randn(1, 3, 518, 518)
    peers = {}
    for kind in ("eager", "sdpa"):
        net = Dinov2Model(config).eval()
        net.set_attn_implementation(kind)
        if work == "forward":

            def forward(net=net):
                with torch.inference_mode():
                    net(pixels)

            peers[f"PyTorch {torch.__version__.split('+')[0]} {kind}"] = timed(forward)
            keep[kind] = (net, pixels)
            continue
        if work == "lora":
            net = Lora(net)

        def step(net=net):
            for p in net.parameters():
                p.grad = None
            net(pixels).last_hidden_state.square().mean().backward()

        peers[f"PyTorch {torch.__version__.split('+')[0]} {kind}"] = timed(step)
    return peers


def exported_peers(threads, net, pixels, folder):
    """OpenVINO and ONNX Runtime, from one ONNX file; and what is missing, with the reason."""
    import torch

    peers, missing = {}, []
    path = str(Path(folder) / "encoder.onnx")

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).last_hidden_state

    try:
        torch.onnx.export(Last().eval(), (pixels,), path, dynamo=True, verbose=False)
    except Exception as e:
        return {}, [f"no ONNX file: {type(e).__name__}: {str(e).splitlines()[0]}"]
    x = pixels.numpy()
    with torch.inference_mode():
        expected = net(pixels).last_hidden_state.numpy()

    def alike(name, got):
        worst = abs(got - expected).max() / abs(expected).max()
        if not worst < 1e-3:
            sys.exit(f"run.py: {name} computes something else; {worst:.1e} of the largest value")

    try:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        name = f"OpenVINO {openvino.__version__.split('-')[0]}"
        alike(name, request.infer([x])[0])
        peers[name] = timed(lambda: request.infer([x]))
    except ImportError as e:
        missing.append(str(e))
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        name = f"ONNX Runtime {onnxruntime.__version__}"
        alike(name, session.run(None, feed)[0])
        peers[name] = timed(lambda: session.run(None, feed))
    except ImportError as e:
        missing.append(str(e))
    return peers, missing


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices="sbl", default=["b"])
    parser.add_argument(
        "--work", nargs="+", choices=("forward", "train", "lora"), default=["forward"]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--build", default=str(Path(__file__).resolve().parents[2] / "build/cpu"))
    o = parser.parse_args()

    print(f"518 x 518, float32, {o.threads} threads, {o.runs} passes of each in turn\n")
    print("| work | who | median, s | least, s | its time / moraine's |")
    print("|---|---|---|---|---|", flush=True)
    notes = set()
    for model in o.model:
        for work in o.work:
            keep = {}
            peers = {"moraine": ours(o.build, model, work, o.threads)}
            peers.update(torch_peers(model, work, o.threads, keep))
            with tempfile.TemporaryDirectory() as folder:
                if work == "forward":
                    more, missing = exported_peers(o.threads, *keep["eager"], folder)
                    peers.update(more)
                    notes.update(missing)
                for once in peers.values():
                    once()  # each has run before it counts
                times = {name: [] for name in peers}
                for _ in range(o.runs):
                    for name, once in peers.items():
                        time.sleep(0.2)  # until the threads of the one before have gone to sleep
                        times[name].append(once())
            for name, seconds in times.items():
                ratio = statistics.median(p / m for p, m in zip(seconds, times["moraine"]))
                print(
                    f"| {SIZES[model][0]} {work} | {name} | {statistics.median(seconds):.3f} "
                    f"| {min(seconds):.3f} | {ratio:.2f} |",
                    flush=True,
                )
    for note in sorted(notes):
        print(f"\nleft out: {note}")


if __name__ == "__main__":
    main()
