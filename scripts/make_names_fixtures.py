#!/usr/bin/env python3
"""One tiny model of every family in the names of each of its publishers, for tests/recipes.

tests/parity/fixtures/names_<family>/{hf,meta,timm}.safetensors hold the same parameters. That they
do is checked here by what the publishers' own code makes of them: the hf and the timm file give the
same features in transformers and timm, and timm's own reading of the authors' files
(checkpoint_filter_fn) turns the meta file into the timm file. Depth Anything's original has neither:
its names are the table of its repository.

    python scripts/make_names_fixtures.py [--out tests/parity/fixtures]
"""
import argparse
import pathlib
import re
import shutil
import warnings

import timm
import torch
import transformers as tf
from safetensors.torch import save_file
from timm.models import eva, vision_transformer, vision_transformer_sam

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPTH, WIDTH, HEADS = 2, 16, 2


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            n = torch.randn(p.shape, generator=g)
            if p.dim() == 1 and name.endswith("weight"):
                p.copy_(1 + 0.3 * n)
            else:
                p.copy_(0.3 * n)
    return model.eval()


def close(a, b, what):
    worst = (a - b).abs().max().item() / max(1, b.abs().max().item())
    assert worst < 1e-5, (what, worst)
    return worst


def renamed(state, rules, drop=()):
    """Applies the first rule that matches each name; a rule may give None to leave it out."""
    out = {}
    for k, v in state.items():
        if any(re.fullmatch(d, k) for d in drop):
            continue
        for pattern, new in rules:
            if re.fullmatch(pattern, k):
                out[re.sub(pattern, new, k)] = v
                break
        else:
            out[k] = v
    return out


def fuse(state, pattern, names, target):
    """Joins q, k, v: `pattern` with {n}, for n in names, becomes target."""
    out = dict(state)
    for i in range(DEPTH):
        for end in ("weight", "bias"):
            keys = [pattern.format(i=i, n=n, end=end) for n in names]
            parts = [out.pop(k, None) for k in keys]
            if all(p is None for p in parts):
                continue
            zeros = torch.zeros_like(next(p for p in parts if p is not None))
            joined = torch.cat([zeros if p is None else p for p in parts])
            out[target.format(i=i, end=end)] = joined
    return out


def features(model, x):
    with torch.no_grad():
        return model.forward_features(x)


def equal(a, b, what):
    assert set(a) == set(b), (what, sorted(set(a) ^ set(b))[:6])
    for k in a:
        assert a[k].shape == b[k].shape and torch.equal(a[k], b[k]), (what, k)


def dinov2(registers, gated):
    config = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
                  image_size=16, patch_size=4, use_swiglu_ffn=gated)
    if registers:
        hf = tf.Dinov2WithRegistersModel(
            tf.Dinov2WithRegistersConfig(num_register_tokens=3, **config))
    else:
        hf = tf.Dinov2Model(tf.Dinov2Config(**config))
    randomise(hf, 1)
    names = hf_names(hf)
    base = "vit_giant_patch14_reg4_dinov2" if gated else "vit_small_patch14_reg4_dinov2"
    if not registers:
        base = base.replace("_reg4", "")
    extra = dict(reg_tokens=3) if registers else {}
    if gated:  # the rule of DINOv2's width
        extra["mlp_ratio"] = 2 * 48 / WIDTH
    net = timm.create_model(base, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, patch_size=4,
                            img_size=16, **extra).eval()
    meta = fuse(names, "encoder.layer.{i}.attention.attention.{n}.{end}",
                ("query", "key", "value"), "blocks.{i}.attn.qkv.{end}")
    meta = renamed(meta, [
        (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
        (r"encoder\.layer\.(\d)\.attention\.output\.dense\.(.*)", r"blocks.\1.attn.proj.\2"),
        (r"encoder\.layer\.(\d)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
        (r"encoder\.layer\.(\d)\.mlp\.weights_in\.(.*)", r"blocks.\1.mlp.w12.\2"),
        (r"encoder\.layer\.(\d)\.mlp\.weights_out\.(.*)", r"blocks.\1.mlp.w3.\2"),
        (r"encoder\.layer\.(\d)\.(.*)", r"blocks.\1.\2"),
        (r"layernorm\.(.*)", r"norm.\1"),
    ])
    out = vision_transformer.checkpoint_filter_fn(dict(meta), net)
    out = {k: v for k, v in out.items() if k != "mask_token"}
    net.load_state_dict(out)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = hf(x).last_hidden_state
    print("  hf against timm", close(features(net, x), expected, base))
    return dict(hf=names, meta=meta, timm=dict(net.state_dict()))


def hf_names(model):
    """The names that save_pretrained writes."""
    import tempfile

    from safetensors.torch import load_file
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(folder + "/model.safetensors")


def dinov3(gated, zero_bias=False):
    config = tf.DINOv3ViTConfig(hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=DEPTH,
                                num_attention_heads=HEADS, patch_size=4, num_register_tokens=4,
                                use_gated_mlp=gated, hidden_act="silu" if gated else "gelu")
    hf = randomise(tf.DINOv3ViTModel(config), 2)
    if zero_bias:
        with torch.no_grad():
            for n, p in hf.named_parameters():
                if n.endswith(("q_proj.bias", "v_proj.bias")):
                    p.zero_()
    names = hf_names(hf)
    base = ("vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3")
    base += "" if zero_bias else "_qkvb"
    net = timm.create_model(base, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, patch_size=4,
                            img_size=16, mlp_ratio=24 / WIDTH, **({} if not gated else
                                                                  dict(swiglu_align_to=8))).eval()
    common = [
        (r"embeddings\.(cls_token)", r"\1"),
        (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
        (r"layer\.(\d)\.attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
        (r"layer\.(\d)\.norm(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
    ]
    fused = fuse(names, "layer.{i}.attention.{n}.{end}", ("q_proj", "k_proj", "v_proj"),
                 "blocks.{i}.attn.qkv.{end}")
    if gated:
        mlp = [(r"layer\.(\d)\.mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.w1.\2"),
               (r"layer\.(\d)\.mlp\.up_proj\.(.*)", r"blocks.\1.mlp.w2.\2"),
               (r"layer\.(\d)\.mlp\.down_proj\.(.*)", r"blocks.\1.mlp.w3.\2")]
    else:
        mlp = [(r"layer\.(\d)\.mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2"),
               (r"layer\.(\d)\.mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2")]
    meta = renamed(fused, common + mlp + [
        (r"embeddings\.register_tokens", "storage_tokens"),
        (r"embeddings\.mask_token", "mask_token"),
        (r"layer\.(\d)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    ])
    meta["mask_token"] = meta["mask_token"][0]
    meta["rope_embed.periods"] = torch.tensor([1.0, 10.0])
    for i in range(DEPTH):  # as the authors' files have it; NaN where the class was never loaded
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH:2 * WIDTH] = 0
        meta[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    out = eva.checkpoint_filter_fn(dict(meta), net)
    missing = net.load_state_dict(out, strict=False)
    assert not missing.missing_keys, missing
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = hf(x).last_hidden_state
    print("  hf against timm", close(features(net, x), expected, base))
    return dict(hf=names, meta=meta, timm=dict(net.state_dict()))


def clip():
    hf = randomise(tf.CLIPVisionModelWithProjection(
        tf.CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=DEPTH,
                            num_attention_heads=HEADS, image_size=16, patch_size=4,
                            projection_dim=10)), 4)
    names = {k: v for k, v in hf_names(hf).items() if "position_ids" not in k}
    net = timm.create_model("vit_base_patch16_clip_quickgelu_224", embed_dim=WIDTH, depth=DEPTH,
                            num_heads=HEADS, patch_size=4, img_size=16, mlp_ratio=24 / WIDTH,
                            num_classes=10).eval()
    meta = fuse(names, "vision_model.encoder.layers.{i}.self_attn.{n}.{end}",
                ("q_proj", "k_proj", "v_proj"),
                "visual.transformer.resblocks.{i}.attn.in_proj_{end}")
    block = r"vision_model\.encoder\.layers\.(\d)\."
    new = r"visual.transformer.resblocks.\1."
    meta = renamed(meta, [
        (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
        (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
        (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
        (r"vision_model\.pre_layrnorm\.(.*)", r"visual.ln_pre.\1"),
        (r"vision_model\.post_layernorm\.(.*)", r"visual.ln_post.\1"),
        (block + r"self_attn\.out_proj\.(.*)", new + r"attn.out_proj.\2"),
        (block + r"layer_norm(\d)\.(.*)", new + r"ln_\2.\3"),
        (block + r"mlp\.fc1\.(.*)", new + r"mlp.c_fc.\2"),
        (block + r"mlp\.fc2\.(.*)", new + r"mlp.c_proj.\2"),
        (r"visual_projection\.weight", "visual.proj"),
    ])
    meta["visual.proj"] = meta["visual.proj"].T.contiguous()
    out = vision_transformer.checkpoint_filter_fn(dict(meta), net)
    net.load_state_dict(out)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = hf(x).image_embeds
        print("  hf against timm", close(net(x), expected, "clip"))
    timm_file = dict(net.state_dict())
    del timm_file["head.bias"]  # zeros that timm adds
    return dict(hf=names, meta=meta, timm=timm_file)


def sam():
    hf = randomise(tf.SamVisionModel(
        tf.SamVisionConfig(hidden_size=WIDTH, output_channels=8, num_hidden_layers=DEPTH,
                           num_attention_heads=HEADS, image_size=24, patch_size=4, window_size=2,
                           global_attn_indexes=[1])), 5)
    names = hf_names(hf)
    net = timm.create_model("samvit_base_patch16", embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
                            patch_size=4, img_size=24, window_size=2, global_attn_indexes=(1, ),
                            neck_chans=8).eval()
    meta = renamed(names, [
        (r"vision_encoder\.patch_embed\.projection\.(.*)", r"image_encoder.patch_embed.proj.\1"),
        (r"vision_encoder\.layers\.(\d)\.layer_norm(\d)\.(.*)", r"image_encoder.blocks.\1.norm\2.\3"),
        (r"vision_encoder\.layers\.(.*)", r"image_encoder.blocks.\1"),
        (r"vision_encoder\.neck\.conv1\.(.*)", r"image_encoder.neck.0.\1"),
        (r"vision_encoder\.neck\.layer_norm1\.(.*)", r"image_encoder.neck.1.\1"),
        (r"vision_encoder\.neck\.conv2\.(.*)", r"image_encoder.neck.2.\1"),
        (r"vision_encoder\.neck\.layer_norm2\.(.*)", r"image_encoder.neck.3.\1"),
        (r"vision_encoder\.(.*)", r"image_encoder.\1"),
    ])
    out = vision_transformer_sam.checkpoint_filter_fn(dict(meta), net)
    net.load_state_dict(out)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = hf(x).last_hidden_state
    print("  hf against timm", close(features(net, x), expected, "sam"))
    return dict(hf=names, meta=meta, timm=dict(net.state_dict()))


def eva02():
    net = randomise(timm.create_model("eva02_base_patch14_224", embed_dim=WIDTH, depth=DEPTH,
                                      num_heads=HEADS, patch_size=4, img_size=16, num_classes=3), 6)
    names = dict(net.state_dict())
    meta = renamed(names, [
        (r"blocks\.(\d)\.attn\.([qv])_proj\.bias", r"blocks.\1.attn.\2_bias"),
        (r"blocks\.(\d)\.mlp\.fc1_g\.(.*)", r"blocks.\1.mlp.w1.\2"),
        (r"blocks\.(\d)\.mlp\.fc1_x\.(.*)", r"blocks.\1.mlp.w2.\2"),
        (r"blocks\.(\d)\.mlp\.fc2\.(.*)", r"blocks.\1.mlp.w3.\2"),
        (r"blocks\.(\d)\.mlp\.norm\.(.*)", r"blocks.\1.mlp.ffn_ln.\2"),
        (r"fc_norm\.(.*)", r"norm.\1"),
    ])
    # timm keeps the norm of a pre-trained file under its own name once the model pools.
    out = eva.checkpoint_filter_fn({"module": dict(meta)}, net)
    out = {("fc_" + k if k.startswith("norm.") else k): v for k, v in out.items()}
    equal(out, names, "eva02")
    return dict(meta=meta, timm=names)


def depth_anything(prompt):
    backbone = tf.Dinov2Config(hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=HEADS,
                               image_size=16, patch_size=4, out_indices=[1, 2, 3, 4],
                               reshape_hidden_states=False)
    sizes = dict(backbone_config=backbone, patch_size=4, reassemble_hidden_size=WIDTH,
                 neck_hidden_sizes=[4, 6, 8, 10], fusion_hidden_size=8, head_hidden_size=6)
    if prompt:
        hf = tf.PromptDepthAnythingForDepthEstimation(
            tf.PromptDepthAnythingConfig(depth_estimation_type="metric", **sizes))
    else:
        hf = tf.DepthAnythingForDepthEstimation(tf.DepthAnythingConfig(**sizes))
    names = hf_names(randomise(hf, 7))
    global DEPTH
    DEPTH, before = 4, DEPTH
    meta = fuse(names, "backbone.encoder.layer.{i}.attention.attention.{n}.{end}",
                ("query", "key", "value"), "pretrained.blocks.{i}.attn.qkv.{end}")
    DEPTH = before
    block = r"backbone\.encoder\.layer\.(\d)\."
    meta = renamed(meta, [
        (r"backbone\.embeddings\.(cls_token|mask_token)", r"pretrained.\1"),
        (r"backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
        (r"backbone\.embeddings\.patch_embeddings\.projection\.(.*)",
         r"pretrained.patch_embed.proj.\1"),
        (block + r"attention\.output\.dense\.(.*)", r"pretrained.blocks.\1.attn.proj.\2"),
        (block + r"layer_scale(\d)\.lambda1", r"pretrained.blocks.\1.ls\2.gamma"),
        (block + r"(.*)", r"pretrained.blocks.\1.\2"),
        (r"backbone\.layernorm\.(.*)", r"pretrained.norm.\1"),
        (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.(.*)", r"depth_head.projects.\1.\2"),
        (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.(.*)", r"depth_head.resize_layers.\1.\2"),
        (r"head\.conv1\.(.*)", r"depth_head.scratch.output_conv1.\1"),
        (r"head\.conv2\.(.*)", r"depth_head.scratch.output_conv2.0.\1"),
        (r"head\.conv3\.(.*)", r"depth_head.scratch.output_conv2.2.\1"),
    ])
    out = {}
    for k, v in meta.items():
        if m := re.fullmatch(r"neck\.convs\.(\d)\.weight", k):
            k = f"depth_head.scratch.layer{int(m[1]) + 1}_rn.weight"
        elif m := re.fullmatch(r"neck\.fusion_stage\.layers\.(\d)\.(.*)", k):
            rest = m[2].replace("projection.", "out_conv.")
            rest = re.sub(r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2", rest)
            rest = re.sub(r"prompt_depth_layer\.convolution(\d)",
                          lambda n: f"resConfUnit_depth.{2 * (int(n[1]) - 1)}", rest)
            k = f"depth_head.scratch.refinenet{4 - int(m[1])}.{rest}"
        out[("pipeline." if prompt else "") + k] = v
    if prompt:
        out["pipeline._mean"] = torch.zeros(1, 3, 1, 1)
        out["pipeline._std"] = torch.ones(1, 3, 1, 1)
    return dict(hf=names, meta=out)


CASES = {
    "dinov2": lambda: dinov2(False, False),
    "dinov2_registers": lambda: dinov2(True, False),
    "dinov2_gated": lambda: dinov2(False, True),
    "dinov3": lambda: dinov3(False),
    "dinov3_zero_bias": lambda: dinov3(False, True),
    "dinov3_gated": lambda: dinov3(True),
    "clip": clip,
    "sam": sam,
    "eva02": eva02,
    "depth_anything": lambda: depth_anything(False),
    "prompt_depth_anything": lambda: depth_anything(True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/parity/fixtures")
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tf.utils.logging.disable_progress_bar()
    for name, make in CASES.items():
        folder = out / f"names_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(name)
        for naming, state in make().items():
            file = folder / f"{naming}.safetensors"
            save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, file)
            if name == "dinov2" and naming == "meta":  # as the authors publish it
                torch.save({k: v.clone() for k, v in state.items()}, folder / "meta.pth")
            print(f"  {naming}: {len(state)} tensors, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
