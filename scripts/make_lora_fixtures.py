#!/usr/bin/env python3
"""Adapters as peft writes them, on the small backbones of tests/parity, and peft's outputs.

tests/parity/fixtures/lora_<name>/ holds adapter_config.json and adapter_model.safetensors as
save_pretrained writes them, base.txt (the fixture folder of the backbone; its in.safetensors is the
input) and ref.safetensors, the adapted model's hidden states. A and B are random, so that the
adapter counts.

    python scripts/make_lora_fixtures.py [--out tests/parity/fixtures]
    python scripts/make_lora_fixtures.py --check FOLDER    FOLDER/<name>/ as the library wrote them
                                                           (tests/recipes, MORAINE_LORA_OUT): loaded
                                                           by peft, the same outputs?
"""
import argparse
import json
import pathlib
import shutil
import warnings

import peft
import timm
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/parity/fixtures"

# name: base, class (None: timm), options of the adapter
CASES = {
    "dinov2_qv": ("dinov2_plain", tf.Dinov2Model,
                  dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"])),
    "dinov2_all": ("dinov2_swiglu", tf.Dinov2Model,
                   dict(r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear")),
    "dinov3": ("dinov3_gated", tf.DINOv3ViTModel,
               dict(r=2, lora_alpha=8, target_modules=["k_proj", "gate_proj", "up_proj",
                                                       "down_proj", "o_proj"],
                    rank_pattern={"up_proj": 4}, alpha_pattern={"k_proj": 1})),
    "clip": ("clip_plain", tf.CLIPVisionModel,
             dict(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "out_proj",
                                                     "fc1", "fc2"])),
    "sam": ("sam_plain", tf.SamVisionModel,
            dict(r=2, lora_alpha=5, target_modules=["qkv", "proj", "lin1", "lin2"])),
    "eva02": ("eva02_plain", None,
              dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "fc1_g", "fc1_x"])),
}


def backbone(base, cls):
    folder = FIXTURES / base
    if cls is not None:
        return cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(config["architecture"], dynamic_img_size=True,
                              num_classes=config.get("num_classes", 0),
                              **config.get("model_args", {}))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def outputs(model, base, cls):
    x = load_file(FIXTURES / base / "in.safetensors")["pixel_values"]
    with torch.no_grad():
        if cls is None:
            last = model.base_model.model.forward_features(x)
            return {"last_hidden_state": last.clone().contiguous()}
        out = model(pixel_values=x, output_hidden_states=True)
    named = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    named["last_hidden_state"] = out.last_hidden_state
    return {k: v.clone().contiguous() for k, v in named.items()}


def make(name, folder):
    base, cls, options = CASES[name]
    model = backbone(base, cls)
    plain = None
    torch.manual_seed(7)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    g = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for key, p in sorted(adapted.named_parameters()):
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "base.txt").write_text(base + "\n")
    ref = outputs(adapted, base, cls)
    save_file(ref, folder / "ref.safetensors")
    with adapted.disable_adapter():
        plain = outputs(adapted, base, cls)
    moved = (ref["last_hidden_state"] - plain["last_hidden_state"]).abs().max().item()
    size = max(f.stat().st_size for f in folder.iterdir())
    print(f"{folder.name}: moves the output by {moved:.3f}, largest file {size} bytes")


def check(folder):
    worst = 0
    for name, (base, cls, _) in CASES.items():
        model = peft.PeftModel.from_pretrained(backbone(base, cls), folder / name).eval()
        ref = load_file(FIXTURES / f"lora_{name}" / "ref.safetensors")
        out = outputs(model, base, cls)
        error = max((out[k] - ref[k]).abs().max().item() / max(1, ref[k].abs().max().item())
                    for k in ref)
        worst = max(worst, error)
        print(f"{name}: written by the library, loaded by peft {peft.__version__}: {error:.1e}")
    assert worst < 1e-5, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=FIXTURES)
    parser.add_argument("--check", type=pathlib.Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tf.utils.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    if arguments.check:
        return check(arguments.check)
    for name in CASES:
        make(name, arguments.out / f"lora_{name}")


if __name__ == "__main__":
    main()
