#!/usr/bin/env python3
"""Published sizes, random weights: files of timm and of the authors' names through `moraine convert`.

For each model: timm or transformers makes it, torch.save writes a .pth in the authors' names (a
Lightning-like checkpoint for one), the program converts it to Hugging Face's names with a
config.json, and transformers loads that folder and must give the features of the model that was
saved. Prints size, seconds and peak memory of the conversion, and the error. By hand: it needs
torch, timm, transformers and some gigabytes under --work.

    python scripts/make_convert_full.py --program build/cpu/bin/moraine --work FOLDER [NAME ...]
"""
import argparse
import pathlib
import shutil
import subprocess
import time
import warnings

import timm
import torch
import transformers as tf


def dinov2_meta(net):
    state = dict(net.state_dict())
    state["mask_token"] = torch.zeros(1, net.embed_dim)
    return {k: v.contiguous() for k, v in state.items()}


def sam_meta(state):
    return {"image_encoder." + k.replace("mlp.fc1", "mlp.lin1").replace("mlp.fc2", "mlp.lin2"): v
            for k, v in state.items()}


def clip_meta(net):
    out = {}
    for k, v in net.state_dict().items():
        if k == "cls_token":
            out["visual.class_embedding"] = v[0, 0]
        elif k == "pos_embed":
            out["visual.positional_embedding"] = v[0]
        elif k == "patch_embed.proj.weight":
            out["visual.conv1.weight"] = v
        elif k.startswith("norm_pre."):
            out["visual.ln_pre." + k[9:]] = v
        elif k.startswith("norm."):
            out["visual.ln_post." + k[5:]] = v
        elif k == "head.weight":
            out["visual.proj"] = v.T
        elif k.startswith("blocks."):
            k = k.replace("blocks.", "visual.transformer.resblocks.", 1)
            for a, b in (("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"),
                         ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
                         ("mlp.fc2", "mlp.c_proj")):
                k = k.replace(a, b)
            out[k] = v
    return {k: v.clone() for k, v in out.items()}  # a transposed one stays a view without this


def randomise(net):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for n, p in sorted(net.named_parameters()):
            if "norm" not in n and "gamma" not in n:
                p.copy_(0.02 * torch.randn(p.shape, generator=g))
    return net.eval()


def make(name):
    """(checkpoint, folder's class, size of images, function of timm's features and HF's output)"""
    if name == "dinov2_b":
        net = randomise(timm.create_model("vit_base_patch14_dinov2"))
        return dinov2_meta(net), tf.Dinov2Model, 518, net, "last_hidden_state"
    if name == "dinov2_reg_s_timm":
        net = randomise(timm.create_model("vit_small_patch14_reg4_dinov2"))
        return net.state_dict(), tf.Dinov2WithRegistersModel, 518, net, "last_hidden_state"
    if name == "dinov2_l_lightning":
        net = randomise(timm.create_model("vit_large_patch14_dinov2"))
        state = {"backbone." + k: v for k, v in dinov2_meta(net).items()}
        return ({"state_dict": state, "epoch": 1, "optimizer_states": []}, tf.Dinov2Model, 518, net,
                "last_hidden_state")
    if name == "dinov3_s":
        net = randomise(timm.create_model("vit_small_patch16_dinov3_qkvb"))
        return net.state_dict(), tf.DINOv3ViTModel, 256, net, "last_hidden_state"
    if name == "clip_l":
        net = randomise(timm.create_model("vit_large_patch14_clip_quickgelu_224", num_classes=768))
        torch.nn.init.zeros_(net.head.bias)  # CLIP's projection has none
        return clip_meta(net), tf.CLIPVisionModelWithProjection, 224, net, "image_embeds"
    if name == "sam_b":
        net = randomise(timm.create_model("samvit_base_patch16"))
        return sam_meta(net.state_dict()), tf.SamVisionModel, 1024, net, "last_hidden_state"
    raise SystemExit(f"no model is called {name}")


NAMES = ["dinov2_b", "dinov2_reg_s_timm", "dinov2_l_lightning", "dinov3_s", "clip_l", "sam_b"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("names", nargs="*", default=NAMES)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    tf.utils.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    for name in a.names:
        folder = a.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoint, cls, size, net, output = make(name)
        file = folder / "weights.pth"
        torch.save(checkpoint, file, _use_new_zipfile_serialization=name != "dinov3_s")
        # A child's peak begins with that of the process it was forked from: a small one stands between.
        start = time.time()
        run = subprocess.run(["/usr/bin/time", "-f", "%M", a.program, "convert", str(file),
                              str(folder / "model.safetensors"), "--to", "hf"],
                             capture_output=True, text=True)
        seconds = time.time() - start
        assert run.returncode == 0, run.stderr
        peak = int(run.stderr.split()[-1]) / 1024
        file_size = file.stat().st_size / 2**20
        file.unlink()
        model, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        assert not any(info[k] for k in ("unexpected_keys", "mismatched_keys")), info
        assert all("mask_token" in k for k in info["missing_keys"]), info["missing_keys"]
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = net(x) if output == "image_embeds" else net.forward_features(x)
            got = getattr(model.eval()(x), output)
        error = (got - expected).abs().max().item() / max(1, expected.abs().max().item())
        print(f"{name}: {file_size:.0f} MiB, {seconds:.1f} s, peak {peak:.0f} MiB, error {error:.1e}",
              flush=True)
        assert error < 1e-4
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
