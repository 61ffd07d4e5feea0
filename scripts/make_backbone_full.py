#!/usr/bin/env python3
"""A backbone of full size with random weights: too large for a repository, made here and compared by
hand. Makes DIR/model, DIR/in.safetensors and DIR/ref.safetensors with the family's own package
(float32, eager attention), runs the example program on them in f32 and bf16, judges every tensor by
the contract's tolerances, and prints one row of a table.

    python scripts/make_backbone_full.py DIR --family dinov3 --size b --encode build/cpu/bin/encode
    python scripts/make_backbone_full.py --list

For f32 max |out - ref| may be 1e-4 max(1, max |ref|), for bf16 5e-2 of the same with an rms of at
most 3e-2 max(1, rms(ref)). Seconds: the reference's are those of loading and of the forward, without
Python's start and imports; encode's are those of the whole process, output included. Peak memory is
the resident set at its highest, of a process of its own each (the mapped file counts where it was
touched). Exit status 1 when a tensor is missing, misshapen or beyond the tolerance.

A family is one class below: how a model is made, loaded and run. Its sizes are its rows.
"""
import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

# Everything heavy is imported in the steps, which are processes of their own: a child's peak memory
# is at least what its parent held.


class HuggingFace:
    """What save_pretrained writes and from_pretrained reads."""
    damped = ("lambda1", )  # many random residual branches of full strength would grow without bound

    def __init__(self, config, model, image, sizes, **common):
        self.config, self.model, self.image, self.sizes = config, model, image, sizes
        self.common = common

    def config_of(self, size):
        import transformers
        return getattr(transformers, self.config)(**{**self.common, **self.sizes[size]})

    def pixels(self, size):
        h = self.sizes[size].get("image_size", self.image)
        return (1, 3, h, h)

    def fill(self, model):
        from make_dinov2_fixtures import randomise
        randomise(model, 1)
        for name, p in model.named_parameters():
            if any(word in name for word in self.damped):
                p.data.mul_(0.4)

    def make(self, folder, size, g):
        import torch
        import transformers
        model = getattr(transformers, self.model)(self.config_of(size)).eval()
        self.fill(model)
        model.save_pretrained(folder)
        inputs = {"pixel_values": torch.randn(*self.pixels(size), generator=g)}
        return sum(p.numel() for p in model.parameters()), inputs

    def load(self, folder, size):
        import torch
        import transformers
        return getattr(transformers, self.model).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()

    def run(self, model, inputs):
        out = model(inputs["pixel_values"], output_hidden_states=True)
        named = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
        named["last_hidden_state"] = out.last_hidden_state
        if out.get("pooler_output") is not None:
            named["pooler_output"] = out.pooler_output
        return named


class Clip(HuggingFace):

    def run(self, model, inputs):
        out = model(inputs["pixel_values"], output_hidden_states=True)
        named = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
        named["last_hidden_state"] = out.last_hidden_state
        named["image_embeds"] = out.image_embeds
        named["pooler_output"] = model.vision_model.post_layernorm(out.last_hidden_state[:, 0])
        return named


class Sam(HuggingFace):

    def fill(self, model):
        from make_sam_fixtures import randomise_sam
        randomise_sam(model, 1)

    def run(self, model, inputs):
        from make_sam_fixtures import named
        return named(model.vision_encoder(inputs["pixel_values"], output_hidden_states=True))


class Depth(HuggingFace):
    prompt = False

    def config_of(self, size):
        import transformers
        s = dict(self.sizes[size])
        trunk = transformers.Dinov2Config(image_size=518, patch_size=14, reshape_hidden_states=False,
                                          **s.pop("trunk"))
        return getattr(transformers, self.config)(backbone_config=trunk, patch_size=14,
                                                  reassemble_hidden_size=trunk.hidden_size, **s)

    def fill(self, model):
        from make_depth_anything_fixtures import randomise_depth
        randomise_depth(model, 1)
        for name, p in model.named_parameters():
            if "lambda1" in name:
                p.data.mul_(0.4)

    def make(self, folder, size, g):
        import torch
        count, inputs = super().make(folder, size, g)
        if self.prompt:
            inputs["prompt_depth"] = 1 + 4 * torch.rand(1, 1, 192, 256, generator=g)
        return count, inputs

    def run(self, model, inputs):
        # Through the backbone of the one forward: its states are heard, not computed again.
        states = []
        trunk = model.backbone
        layers = trunk.encoder.layer if hasattr(trunk, "encoder") else trunk.layers
        hooks = [layers[0].register_forward_pre_hook(lambda m, x: states.append(x[0]))]
        first = lambda y: y[0] if isinstance(y, tuple) else y
        hooks += [b.register_forward_hook(lambda m, x, y: states.append(first(y))) for b in layers]
        named = {"predicted_depth": model(**inputs).predicted_depth}
        for hook in hooks:
            hook.remove()
        return {**{f"hidden_states.{i}": h for i, h in enumerate(states)}, **named}


class PromptDepth(Depth):
    prompt = True


class Eva02:
    sizes = {s: a for s, a in (("tiny", "eva02_tiny_patch14_224"), ("small", "eva02_small_patch14_224"),
                               ("base", "eva02_base_patch14_224"), ("base448", "eva02_base_patch14_448"),
                               ("large", "eva02_large_patch14_224"),
                               ("large448", "eva02_large_patch14_448"))}

    def pixels(self, size):
        h = int(self.sizes[size].rsplit("_", 1)[1])
        return (1, 3, h, h)

    def make(self, folder, size, g):
        import torch
        from make_eva02_fixtures import create, fill
        from safetensors.torch import save_file
        model = create(self.sizes[size], {}, {})
        fill(model, 1)
        folder.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()},
                  folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(
            json.dumps(dict(architecture=self.sizes[size], num_classes=0)))
        return (sum(p.numel() for p in model.parameters()),
                {"pixel_values": torch.randn(*self.pixels(size), generator=g)})

    def load(self, folder, size):
        from make_eva02_fixtures import create
        from safetensors.torch import load_file
        model = create(self.sizes[size], {}, {})
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    def run(self, model, inputs):
        from make_eva02_fixtures import outputs
        return outputs(model, inputs["pixel_values"])


class Dofa:
    sizes = {"b": dict(embed_dim=768, depth=12, num_heads=12), "l": {}}
    waves = [0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19]  # Sentinel-2

    def pixels(self, size):
        return (1, len(self.waves), 224, 224)

    def create(self, size):
        from make_dofa_fixtures import torchgeo_dofa
        common = dict(embed_dim=1024, depth=24, num_heads=16, num_classes=0)
        return torchgeo_dofa()(**{**common, **self.sizes[size]}).eval()

    def make(self, folder, size, g):
        import torch
        from make_dofa_fixtures import reach
        from safetensors.torch import save_file
        model = self.create(size)
        weights = {}
        for name, v in model.state_dict().items():
            u = 2 * torch.rand(v.shape, generator=g) - 1
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weights[name] = one + float(reach(name, list(v.shape))) * u
        folder.mkdir(parents=True)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(dict(model_type="dofa", **self.sizes[size])))
        return (sum(p.numel() for p in model.parameters()), {
            "pixel_values": torch.randn(*self.pixels(size), generator=g),
            "wavelengths": torch.tensor(self.waves)
        })

    def load(self, folder, size):
        from safetensors.torch import load_file
        model = self.create(size)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    def run(self, model, inputs):
        from make_dofa_fixtures import named
        return named(model, inputs["pixel_values"], inputs["wavelengths"].tolist(), True)


def widths(hidden, layers, heads, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, **more)


DINOV2 = {
    "s": widths(384, 12, 6),
    "b": widths(768, 12, 12),
    "l": widths(1024, 24, 16),
    "g": widths(1536, 40, 24, use_swiglu_ffn=True)
}
GATED = dict(use_gated_mlp=True, hidden_act="silu")
DEPTHS = {
    "s": dict(trunk=widths(384, 12, 6, out_indices=[3, 6, 9, 12]), fusion_hidden_size=64,
              neck_hidden_sizes=[48, 96, 192, 384]),
    "b": dict(trunk=widths(768, 12, 12, out_indices=[3, 6, 9, 12]), fusion_hidden_size=128,
              neck_hidden_sizes=[96, 192, 384, 768]),
    "l": dict(trunk=widths(1024, 24, 16, out_indices=[5, 12, 18, 24]), fusion_hidden_size=256,
              neck_hidden_sizes=[256, 512, 1024, 1024])
}
FAMILIES = {
    "dinov2": HuggingFace("Dinov2Config", "Dinov2Model", 518, DINOV2, image_size=518, patch_size=14),
    "dinov2_registers": HuggingFace("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", 518,
                                    DINOV2, image_size=518, patch_size=14, num_register_tokens=4),
    "dinov3": HuggingFace(
        "DINOv3ViTConfig", "DINOv3ViTModel", 512, {
            "s": widths(384, 12, 6, intermediate_size=1536),
            "s+": widths(384, 12, 6, intermediate_size=1536, **GATED),
            "b": widths(768, 12, 12, intermediate_size=3072),
            "l": widths(1024, 24, 16, intermediate_size=4096),
            "h+": widths(1280, 32, 20, intermediate_size=5120, **GATED),
            "7b": widths(4096, 40, 32, intermediate_size=8192, query_bias=False, value_bias=False,
                         **GATED)
        }, num_register_tokens=4),
    "clip": Clip(
        "CLIPVisionConfig", "CLIPVisionModelWithProjection", 224, {
            "b32": dict(patch_size=32, projection_dim=512),
            "b16": dict(patch_size=16, projection_dim=512),
            "l14": widths(1024, 24, 16, intermediate_size=4096, patch_size=14, projection_dim=768),
            "l14_336": widths(1024, 24, 16, intermediate_size=4096, patch_size=14,
                              projection_dim=768, image_size=336)
        }),
    "eva02": Eva02(),
    "sam": Sam(
        "SamVisionConfig", "SamVisionModel", 1024, {
            "b": {},
            "l": widths(1024, 24, 16, global_attn_indexes=[5, 11, 17, 23]),
            "h": widths(1280, 32, 16, global_attn_indexes=[7, 15, 23, 31])
        }),
    "dofa": Dofa(),
    "depth_anything": Depth("DepthAnythingConfig", "DepthAnythingForDepthEstimation", 518, DEPTHS),
    "prompt_depth_anything": PromptDepth("PromptDepthAnythingConfig",
                                         "PromptDepthAnythingForDepthEstimation", 518, DEPTHS),
}


def step_make(args):
    import torch
    import transformers
    from safetensors.torch import save_file
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    family = FAMILIES[args.family]
    shutil.rmtree(args.folder / "model", ignore_errors=True)
    with torch.no_grad():
        count, inputs = family.make(args.folder / "model", args.size,
                                    torch.Generator().manual_seed(2))
    save_file(inputs, args.folder / "in.safetensors")
    (args.folder / "made.json").write_text(
        json.dumps(dict(family=args.family, size=args.size, parameters=count,
                        image=list(inputs["pixel_values"].shape))))


def step_reference(args):
    import torch
    from safetensors.torch import load_file, save_file
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    family, inputs = FAMILIES[args.family], load_file(args.folder / "in.safetensors")
    with torch.no_grad():
        start = time.perf_counter()
        model = family.load(args.folder / "model", args.size)
        loaded = time.perf_counter()
        named = family.run(model, inputs)
        done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_file({k: v.detach().clone().contiguous() for k, v in named.items()},
              args.folder / "ref.safetensors")
    (args.folder / "reference.json").write_text(
        json.dumps(dict(load=loaded - start, forward=done - loaded, peak=peak)))


def compare(out, ref, dtype, verbose):
    """(worst max, worst rms, what is wrong), relative as in the contract."""
    import torch
    bad = [f"{name}: only in the {'output' if name in out else 'reference'}"
           for name in sorted(set(out) ^ set(ref))]
    worst = worst_rms = 0.0
    for name in sorted(set(out) & set(ref)):
        a, b = out[name].double(), ref[name].double()
        if a.shape != b.shape or out[name].dtype != torch.float32:
            bad.append(f"{name}: {out[name].dtype} {tuple(a.shape)}, not F32 {tuple(b.shape)}")
            continue
        d = (a - b).abs().max().item() / max(1.0, b.abs().max().item())
        rms = (a - b).square().mean().sqrt().item() / max(1.0, b.square().mean().sqrt().item())
        worst, worst_rms = max(worst, d), max(worst_rms, rms)
        if verbose:
            print(f"  {name:22} {str(tuple(a.shape)):20} max {d:.2e}  rms {rms:.2e}  "
                  f"of {b.abs().max().item():.3g}")
        if not (d <= 1e-4 if dtype == "f32" else d <= 5e-2 and rms <= 3e-2):  # NaN is not ok
            bad.append(f"{name}: {d:.2e}, rms {rms:.2e} is beyond the tolerance ({dtype})")
    return worst, worst_rms, bad


def step_compare(args):
    from safetensors.torch import load_file
    ref = load_file(args.folder / "ref.safetensors")
    result = {}
    for dtype in args.dtype:
        out = load_file(args.folder / f"out_{dtype}.safetensors")
        worst, rms, bad = compare(out, ref, dtype, args.verbose)
        result[dtype] = dict(worst=worst, rms=rms, bad=bad)
    (args.folder / "compared.json").write_text(json.dumps(result))


def child(command):
    """Runs a process; (seconds, peak memory in KiB)."""
    start = time.perf_counter()
    p = subprocess.Popen([str(c) for c in command])
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        raise SystemExit(f"{command[0]} {command[1]}: exit status {p.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss


HEAD = ("| family, size | parameters | image | f32 | bf16 (rms) | reference: load + forward | "
        "encode f32 | bf16 | peak memory: reference | encode f32 | bf16 |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--family", choices=sorted(FAMILIES))
    parser.add_argument("--size")
    parser.add_argument("--encode", type=Path, help="the program to run and compare")
    parser.add_argument("--dtype", choices=["f32", "bf16"], action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="use the case that is in the folder")
    parser.add_argument("--verbose", action="store_true", help="a line for every tensor")
    parser.add_argument("--list", action="store_true", help="families and their sizes")
    parser.add_argument("--step", choices=["make", "reference", "compare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        for name, family in FAMILIES.items():
            print(f"{name}: {', '.join(family.sizes)}")
        print(HEAD)
        return 0
    if not args.folder or not args.family or args.size not in FAMILIES[args.family].sizes:
        parser.error("needs a folder, --family and one of its sizes; see --list")
    args.dtype = args.dtype or ["f32", "bf16"]
    if args.step:
        globals()["step_" + args.step](args)
        return 0

    args.folder.mkdir(parents=True, exist_ok=True)
    again = [sys.executable, __file__] + sys.argv[1:] + ["--step"]
    if not args.keep:
        child(again + ["make"])
        child(again + ["reference"])
    if not args.encode:
        return 0
    took = {}
    for dtype in args.dtype:
        took[dtype] = child([args.encode, "--model", args.folder / "model", "--input",
                             args.folder / "in.safetensors", "--output",
                             args.folder / f"out_{dtype}.safetensors", "--dtype", dtype,
                             "--threads", args.threads])
    child(again + ["compare"])
    made, ref, got = (json.loads((args.folder / f).read_text())
                      for f in ("made.json", "reference.json", "compared.json"))
    gib = lambda kib: f"{kib / 2**20:.2f} GiB"
    error = lambda d: "-" if d not in got else f"{got[d]['worst']:.1e}" + (
        f" ({got[d]['rms']:.1e})" if d == "bf16" else "")
    seconds = lambda d: f"{took[d][0]:.1f} s" if d in took else "-"
    peak = lambda d: gib(took[d][1]) if d in took else "-"
    image = " x ".join(str(n) for n in made["image"][1:])
    print(f"| {args.family} {args.size} | {made['parameters'] / 1e6:.0f} M | {image} | "
          f"{error('f32')} | {error('bf16')} | {ref['load']:.1f} + {ref['forward']:.1f} s | "
          f"{seconds('f32')} | {seconds('bf16')} | {gib(ref['peak'])} | {peak('f32')} | "
          f"{peak('bf16')} |")
    bad = [b for d in args.dtype for b in got[d]["bad"]]
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
