"""The workers of run.py: one process per library, so that no thread pool meets another.

    python workers.py KIND MODEL WORK DTYPE THREADS

prints "ready NAME", then answers every line on its standard input with one pass over the work:
"SECONDS PEAK_MIB". Or "missing REASON". KIND is eager, sdpa (PyTorch), openvino or onnxruntime;
MODEL s, b or l (DINOv2 at 518 x 518, batch 1); WORK forward, train or lora; DTYPE fp32 or bf16.
WORK spectralN is the training step of bench/spectral_step.cpp with N blocks, PyTorch alone.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

SIZES = {
    "s": dict(hidden_size=384, num_attention_heads=6),
    "b": dict(),
    "l": dict(hidden_size=1024, num_attention_heads=16, num_hidden_layers=24),
}


def adapted(model):
    """Rank-16 adapters beside query, key and value of every block; all else is frozen. Three
    products of a third of the width are what our one fused product is."""
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
    found = 0
    for module in model.modules():
        for name in ("q_proj", "k_proj", "v_proj", "query", "key", "value"):
            if isinstance(getattr(module, name, None), torch.nn.Linear):
                setattr(module, name, Adapted(getattr(module, name)))
                found += 1
    if found != 3 * model.config.num_hidden_layers:
        raise RuntimeError(f"adapters found {found} places")
    return model


def pytorch(kind, model, work, dtype, threads):
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(threads)
    net = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **SIZES[model])).eval()
    net.set_attn_implementation(kind)
    pixels = torch.randn(1, 3, 518, 518)
    if work == "lora":
        adapted(net)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16")

    def forward():
        with torch.inference_mode(), autocast():
            net(pixels)

    def step():
        for p in net.parameters():
            p.grad = None
        with autocast():
            y = net(pixels).last_hidden_state
        y.float().square().mean().backward()

    mode = {"fp32": "", "bf16": " autocast"}[dtype]
    return f"PyTorch {torch.__version__.split('+')[0]} {kind}{mode}", (
        forward if work == "forward" else step
    )


def spectral(blocks, threads):
    """SpectralMoE after every block of two frozen ViT-L trunks, 512 x 512 in patches of 16. The
    plugin as its authors wrote it: rows sorted by expert, and distances, tokens, attention over
    tokens and the fusion held as whole matrices."""
    import math

    import torch
    import torch.nn.functional as F
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(threads)
    d, tokens, rank, experts = 1024, 100, 16, 6
    config = Dinov2Config(
        image_size=512, patch_size=16, **{**SIZES["l"], "num_hidden_layers": blocks}
    )
    trunks = [Dinov2Model(config).eval() for _ in range(2)]
    for trunk in trunks:
        trunk.set_attn_implementation("sdpa")
        trunk.requires_grad_(False)

    def parameter(*shape, std=0.02):
        return torch.nn.Parameter(torch.randn(*shape) * std)

    a = [parameter(experts, tokens, rank, std=0.2) for _ in range(blocks)]
    b = [parameter(experts, rank, d) for _ in range(blocks)]
    w_gate = [[parameter(d, experts) for _ in range(2)] for _ in range(blocks)]
    w_noise = [[parameter(d, experts, std=0) for _ in range(2)] for _ in range(blocks)]
    alpha = torch.nn.Parameter(torch.tensor(0.001))
    w1, w2 = torch.nn.Linear(d, d), torch.nn.Linear(d, d)
    parameters = [alpha, *w1.parameters(), *w2.parameters(), *a, *b]
    parameters += [w for pair in w_gate + w_noise for w in pair]
    adam = torch.optim.AdamW(parameters, lr=1e-4)
    pixels = torch.randn(1, 3, 512, 512)

    def cv2(x):
        return x.var() / (x.mean().square() + 1e-10)

    def mixture(l, j, f):
        clean = -(f[:, :, None] - w_gate[l][j][None]).abs().sum(1)  # (n,E)
        sigma = F.softplus(f @ w_noise[l][j])
        h = clean + sigma * torch.randn_like(sigma)
        best = h.topk(2, dim=1)
        gates = torch.zeros_like(h).scatter(1, best.indices[:, :1], 1.0)
        threshold = torch.where(h > best.values[:, 1:], best.values[:, 1:], best.values[:, :1])
        load = (0.5 * torch.erfc((threshold - clean) / sigma / math.sqrt(2))).sum(0)
        out = torch.zeros_like(f)
        for e in range(experts):
            rows = (best.indices[:, 0] == e).nonzero()[:, 0]
            t = a[l][e] @ b[l][e]  # (T,D)
            p = torch.softmax(f[rows] @ t.T / math.sqrt(d), 1)
            out = out.index_add(0, rows, p @ w1(t))
        return out, cv2(gates.sum(0)) + cv2(load)

    def blocks_of(net):
        return net.encoder.layer

    def step():
        adam.zero_grad(set_to_none=True)
        v, z = (net.embeddings(pixels) for net in trunks)
        aux = 0
        for l in range(blocks):
            v = blocks_of(trunks[0])[l](v)
            z = blocks_of(trunks[1])[l](z)
            v, z = (x[0] if isinstance(x, tuple) else x for x in (v, z))
            (ov, lv), (od, ld) = (mixture(l, j, x[0, 1:]) for j, x in enumerate((v, z)))
            delta = torch.softmax(ov @ od.T / math.sqrt(d), 1) @ od
            patches = v[0, 1:] + alpha * w2(delta + v[0, 1:])
            v = torch.cat([v[:, :1], patches[None]], 1)
            aux = aux + 0.5 * (lv + ld)
        (trunks[0].layernorm(v).square().mean() + aux).backward()
        adam.step()

    return f"PyTorch {torch.__version__.split('+')[0]}", step


def exported(model, folder):
    """One ONNX file per model, kept for the run; and a pair of input and value to check with."""
    import numpy
    import torch
    from transformers import Dinov2Config, Dinov2Model

    path = Path(folder) / f"vit_{model}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        net = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **SIZES[model])).eval()
        pixels = torch.randn(1, 3, 518, 518)

        class Last(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net(x).last_hidden_state

        torch.onnx.export(Last().eval(), (pixels,), str(path), dynamo=True, verbose=False)
        with torch.inference_mode():
            y = net(pixels).last_hidden_state
        numpy.savez(Path(folder) / f"vit_{model}.npz", x=pixels.numpy(), y=y.numpy())


def loaded(model, folder, dtype, call):
    import numpy

    pair = numpy.load(Path(folder) / f"vit_{model}.npz")
    worst = abs(call(pair["x"]) - pair["y"]).max() / abs(pair["y"]).max()
    if not worst < (1e-3 if dtype == "fp32" else 6e-2):
        raise RuntimeError(f"computes something else; {worst:.1e} of the largest value")
    return lambda: call(pair["x"])


def openvino(model, folder, dtype, threads):
    import openvino as ov

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype],
    }
    core = ov.Core()
    path = str(Path(folder) / f"vit_{model}.onnx")
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    return f"OpenVINO {ov.__version__.split('-')[0]}", loaded(
        model, folder, dtype, lambda x: request.infer([x])[0]
    )


def onnxruntime(model, folder, dtype, threads):
    import onnxruntime as ort

    if dtype != "fp32":
        raise ImportError("ONNX Runtime has no bfloat16 on this processor")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    path = str(Path(folder) / f"vit_{model}.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return f"ONNX Runtime {ort.__version__}", loaded(
        model, folder, dtype, lambda x: session.run(None, {name: x})[0]
    )


def main():
    kind, model, work, dtype, threads = sys.argv[1:6]
    folder = sys.argv[6] if len(sys.argv) > 6 else tempfile.gettempdir()
    try:
        if kind == "export":
            exported(model, folder)
            print("ready export", flush=True)
            return
        if kind == "openvino":
            name, once = openvino(model, folder, dtype, int(threads))
        elif kind == "onnxruntime":
            name, once = onnxruntime(model, folder, dtype, int(threads))
        elif work.startswith("spectral"):
            name, once = spectral(int(work[8:]), int(threads))
        else:
            name, once = pytorch(kind, model, work, dtype, int(threads))
        once()
    except Exception as e:  # whatever is wrong with a peer, the others are still measured
        print(f"missing {kind}: {type(e).__name__}: {(str(e).splitlines() or [''])[0]}", flush=True)
        return
    print(f"ready {name}", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        once()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{seconds:.6f} {peak:.0f}", flush=True)


if __name__ == "__main__":
    main()
