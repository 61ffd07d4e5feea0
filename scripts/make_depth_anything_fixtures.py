#!/usr/bin/env python3
"""Small Depth Anything and Prompt Depth Anything models with everything random, run by transformers,
for tests/parity.

Each case is a folder as `save_pretrained` writes it, with in.safetensors (`pixel_values`, perhaps
`prompt_depth`) and ref.safetensors: the trunk's `hidden_states.<i>` and `predicted_depth` of the
class named in config.json, float32, eager attention. Further inputs of a case are
in_<tag>.safetensors with ref_<tag>.safetensors. grad.safetensors holds an input, the weights `loss`
of loss = sum(loss * predicted_depth), and its gradients `d.<name>`.

    python scripts/make_depth_anything_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
import transformers
from make_dinov2_fixtures import randomise
from safetensors.torch import save_file
from transformers import (DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config,
                          Dinov2WithRegistersConfig, PromptDepthAnythingConfig,
                          PromptDepthAnythingForDepthEstimation)

GRADIENTS = ("backbone.embeddings.patch_embeddings.projection.weight",
             "neck.reassemble_stage.layers.0.projection.weight",
             "neck.fusion_stage.layers.0.residual_layer2.convolution1.weight")


def load(folder):
    """The model of a folder, in float32."""
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(folder,
                                      dtype=torch.float32,
                                      attn_implementation="eager",
                                      output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def reference(folder, inputs):
    """What the class named in config.json makes of an input, as named float32 tensors."""
    model = load(folder)
    with torch.no_grad():
        states = model.backbone(inputs["pixel_values"], output_hidden_states=True).hidden_states
        depth = model(**inputs).predicted_depth
    named = {f"hidden_states.{i}": h for i, h in enumerate(states)}
    named["predicted_depth"] = depth
    return {k: v.clone().contiguous() for k, v in named.items()}


def randomise_depth(model, seed):
    randomise(model, seed)
    with torch.no_grad():
        # Depths that the last relu does not cut off nearly everywhere, nor the sigmoid.
        model.head.conv3.weight.mul_(0.5)
        model.head.conv3.bias.fill_(0.75)


TRUNK = dict(hidden_size=15,
             num_hidden_layers=4,
             num_attention_heads=3,
             image_size=28,
             patch_size=7,
             out_indices=[1, 2, 3, 4],
             reshape_hidden_states=False)
HEAD = dict(patch_size=7,
            reassemble_hidden_size=15,
            neck_hidden_sizes=[6, 8, 10, 12],
            fusion_hidden_size=8,
            head_hidden_size=5)
SIZES = {
    "": (28, 28),
    "large": (49, 49),
    "wide": (21, 42),
    "remainder": (34, 45),
    "one_patch": (7, 13)
}
DEPTH, PROMPT = (DepthAnythingConfig,
                 DepthAnythingForDepthEstimation), (PromptDepthAnythingConfig,
                                                    PromptDepthAnythingForDepthEstimation)

# name: classes, trunk, head, image sizes by tag, prompt sizes by tag, how it is stored
CASES = {
    "depth_anything_relative": (DEPTH, TRUNK, HEAD, SIZES, {}, {}),
    "depth_anything_metric":
    (DEPTH,
     dict(TRUNK,
          num_hidden_layers=5,
          out_indices=None,
          out_features=["stem", "stage2", "stage5"],
          apply_layernorm=False),
     dict(HEAD,
          depth_estimation_type="metric",
          max_depth=20,
          head_in_index=1,
          neck_hidden_sizes=[6, 8, 10],
          reassemble_factors=[3, 2, 0.4, 1],
          head_hidden_size=7,
          fusion_hidden_size=9), {
              "": (28, 28),
              "wide": (21, 42),
              "remainder": (34, 45)
          }, {}, {}),
    # max_depth scales relative depth too; negative indices; another trunk; half precision.
    "depth_anything_scaled": (DEPTH,
                              dict(TRUNK,
                                   out_indices=[-4, -2],
                                   use_swiglu_ffn=True,
                                   num_channels=5,
                                   qkv_bias=False),
                              dict(HEAD,
                                   max_depth=3,
                                   neck_hidden_sizes=[6, 8],
                                   reassemble_factors=[1, 0.5],
                                   head_in_index=-2), {
                                       "": (28, 28),
                                       "wide": (21, 43)
                                   }, {}, dict(dtype=torch.float16)),
    # The class of registers, which this head takes without any.
    "depth_anything_registers_class": (DEPTH, dict(TRUNK, num_register_tokens=0), HEAD, {
        "": (28, 28),
        "wide": (21, 42)
    }, {}, dict(trunk=Dinov2WithRegistersConfig)),
    # Only what differs from the defaults is left in config.json.
    "depth_anything_sparse_config":
    (DEPTH,
     dict(hidden_size=12,
          num_hidden_layers=4,
          num_attention_heads=2,
          image_size=42,
          out_indices=[1, 2, 3, 4],
          reshape_hidden_states=False),
     dict(reassemble_hidden_size=12, neck_hidden_sizes=[4, 5, 6, 7], fusion_hidden_size=6), {
         "": (42, 42),
         "wide": (28, 71)
     }, {}, dict(sparse=True)),
    "prompt_depth_anything_metric":
    (PROMPT, TRUNK, dict(HEAD, depth_estimation_type="metric"), dict(SIZES,
                                                                     none=(28, 35),
                                                                     constant=(14, 21)), {
                                                                         "": (5, 6),
                                                                         "large": (70, 61),
                                                                         "wide": (1, 4),
                                                                         "remainder": (14, 9),
                                                                         "one_patch": (3, 2),
                                                                         "constant": (3, 3)
                                                                     }, {}),
    # It reads neither max_depth nor head_in_index.
    "prompt_depth_anything_relative":
    (PROMPT, TRUNK, dict(HEAD, max_depth=5, head_in_index=0), {
        "": (28, 28),
        "none": (21, 42)
    }, {
        "": (9, 4)
    }, {}),
}


def make_inputs(seed, tag, size, channels, prompt):
    g = torch.Generator().manual_seed(seed + 1 + size[0] * 1000 + size[1])
    batch = 2 if tag in ("", "wide") else 1
    inputs = {"pixel_values": torch.randn(batch, channels, *size, generator=g)}
    if prompt:
        depth = 2 + 3 * torch.rand(batch, 1, *prompt, generator=g)
        inputs["prompt_depth"] = torch.full_like(depth, 2.5) if tag == "constant" else depth
    return inputs


def gradients(folder, inputs):
    model = load(folder)
    inputs = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    depth = model(**inputs).predicted_depth
    loss = torch.randn(depth.shape, generator=torch.Generator().manual_seed(7))
    (loss * depth).sum().backward()
    out = {"loss": loss, "predicted_depth": depth.detach()}
    for name, t in inputs.items():
        out[name], out["d." + name] = t.detach(), t.grad
    tensors = dict(model.named_parameters())
    for name in GRADIENTS:
        out["d." + name] = tensors[name].grad
    return {k: v.clone().contiguous() for k, v in out.items()}


def make(name, folder):
    (config_class, model_class), trunk, head, sizes, prompts, how = CASES[name]
    seed = zlib.crc32(name.encode())
    trunk_class = how.get("trunk", Dinov2Config)
    config = config_class(backbone_config=trunk_class(**trunk), **head)
    model = model_class(config).eval()
    randomise_depth(model, seed)
    model = model.to(how.get("dtype", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if how.get("sparse"):
        keep = dict(head,
                    backbone_config=dict(trunk, model_type=trunk_class.model_type),
                    model_type=config_class.model_type,
                    architectures=[model_class.__name__])
        (folder / "config.json").write_text(json.dumps(keep, indent=2, sort_keys=True) + "\n")
    for tag, size in sizes.items():
        inputs = make_inputs(seed, tag, size, trunk.get("num_channels", 3), prompts.get(tag))
        end = (f"_{tag}" if tag else "") + ".safetensors"
        save_file(inputs, folder / ("in" + end))
        save_file(reference(folder, inputs), folder / ("ref" + end))
    if name in ("depth_anything_relative", "prompt_depth_anything_metric"):
        inputs = make_inputs(seed + 99, "", (21, 28), 3, (4, 5) if prompts else None)
        save_file(gradients(folder, inputs), folder / "grad.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests/parity/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in CASES:
        make(name, out / name)
        files = sorted((out / name).iterdir())
        print(f"{name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
              f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
