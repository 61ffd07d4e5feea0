#!/usr/bin/env python3
"""What the image processors of transformers and the transforms of timm make of small pictures, for
tests/recipes/image_processor_test.cpp.

tests/parity/fixtures/processors/ receives the pictures (PNG), cases.json, and a <case>.safetensors
for each with `<picture>.<backend>` as float32. A case has the `config` of a model's config.json, its
`preprocessor` configuration (or `nested`, within a processor_config.json) where there is one, and
perhaps the `size` that `moraine prepare --size` would be given. Where a case leaves the
configuration to the family, the reference is given what the family's published models have.
pipeline.safetensors is the whole of Python's way: noise.png at --size 28 through the processor and
the model of depth_anything_sparse_config.

    python scripts/make_processor_fixtures.py [--out tests/parity/fixtures/processors]

transformers' torchvision backend rounds by the processor: run this on x86-64 with AVX2. Pillow 13.
"""
import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
import transformers
from make_depth_anything_fixtures import load
from PIL import Image
from safetensors.numpy import save_file
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor, DPTImageProcessor
from transformers.image_transforms import convert_to_rgb

IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
DINOV2 = dict(image_processor_type="BitImageProcessor", size={"shortest_edge": 256}, **IMAGENET)
DPT = dict(image_processor_type="DPTImageProcessor",
           ensure_multiple_of=14,
           keep_aspect_ratio=True,
           size={
               "height": 518,
               "width": 518
           },
           **IMAGENET)
EVA = dict(crop_pct=0.9, interpolation="bicubic", mean=[0.5, 0.4, 0.3], std=[0.3, 0.2, 0.25])


def bit(**fields):
    return dict(image_processor_type="BitImageProcessor", **fields)


def square(n):
    return {"height": n, "width": n}


# name: config.json, the processor's configuration or None, and what else
CASES = {
    # sizes, crops and arithmetic, both backends
    "bit": ("dinov2", bit(size={"shortest_edge": 15}, crop_size=square(11)), {}),
    "bit_bytes": ("dinov2",
                  bit(size={"shortest_edge": 11},
                      do_center_crop=False,
                      do_rescale=False,
                      do_normalize=False), {}),
    "bit_bytes_bilinear": ("dinov2",
                           bit(size=[9, 16],
                               resample=2,
                               do_center_crop=False,
                               do_rescale=False,
                               do_normalize=False), {}),
    "bit_larger_crop": ("dinov2", bit(size={"shortest_edge": 7}, crop_size=[12, 8]), {}),
    "bit_longest": ("dinov2",
                    bit(size={
                        "shortest_edge": 10,
                        "longest_edge": 13
                    },
                        do_center_crop=False,
                        do_rescale=False), dict(pictures=["wide", "tall"])),
    "bit_max": ("dinov2",
                bit(size={
                    "max_height": 10,
                    "max_width": 15
                }, do_center_crop=False, do_normalize=False), {}),
    "bit_no_resize": ("dinov2", bit(do_resize=False, crop_size=11), {}),
    "clip_old": ("clip",
                 dict(feature_extractor_type="CLIPFeatureExtractor",
                      size=11,
                      crop_size=11,
                      do_normalize=True), {}),
    "dinov3": ("dinov3_vit",
               dict(image_processor_type="DINOv3ViTImageProcessorFast",
                    size=square(11),
                    image_mean=[0.43, 0.411, 0.296],
                    image_std=[0.213, 0.156, 0.143]), {}),
    "sam": ("sam",
            dict(image_processor_type="SamImageProcessor",
                 size={"longest_edge": 13},
                 pad_size=square(14)), {}),
    "dpt": ("depth_anything", dict(DPT, size=square(11), ensure_multiple_of=3),
            dict(pictures=["noise", "wide"])),
    "dpt_default": ("depth_anything",
                    dict(image_processor_type="DPTImageProcessor",
                         size=square(10),
                         do_pad=True,
                         size_divisor=4), {}),
    "prompt": ("prompt_depth_anything",
               dict(DPT,
                    image_processor_type="PromptDepthAnythingImageProcessor",
                    size=square(10),
                    ensure_multiple_of=2), {}),
    "vit": ("dinov2", dict(image_processor_type="ViTImageProcessor", size=11), {}),
    "nested": ("dinov2", bit(size={"shortest_edge": 12}, crop_size=square(9)), dict(nested=True)),
    # how pictures become RGB
    "pictures": ("dinov2",
                 bit(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False),
                 dict(pictures=["gray", "alpha", "palette", "bits"])),
    # the family's own, made small by size
    "family_dinov2": ("dinov2", None, dict(like=DINOV2, size="11")),
    "family_dinov2_wide": ("dinov2_with_registers", None, dict(like=DINOV2, size="11x15")),
    "family_dinov3": ("dinov3_vit", None,
                      dict(like=dict(image_processor_type="DINOv3ViTImageProcessor"), size="9x13")),
    "family_clip": ("clip_vision_model", None,
                    dict(like=dict(image_processor_type="CLIPImageProcessor"), size="11")),
    "family_sam": ("sam_vision_model", None,
                   dict(like=dict(image_processor_type="SamImageProcessor"), size="11")),
    "family_depth_anything": ("depth_anything", None, dict(like=DPT, size="11", pictures=["noise"])),
    "family_prompt": ("prompt_depth_anything", None,
                      dict(like=dict(DPT,
                                     image_processor_type="PromptDepthAnythingImageProcessor"),
                           size="14x15",
                           pictures=["noise"])),
    # timm
    "timm_centre": (None, None, dict(timm=dict(EVA, input_size=[3, 11, 11]))),
    "timm_squash": (None, None, dict(timm=dict(EVA, input_size=[3, 11, 11], crop_mode="squash"))),
    "timm_border": (None, None, dict(timm=dict(EVA, input_size=[3, 12, 11], crop_mode="border"))),
    "timm_bilinear": (None, None,
                      dict(timm=dict(input_size=[3, 9, 13],
                                     interpolation="bilinear",
                                     crop_pct=None,
                                     mean=None))),
    "family_eva02": (None, None, dict(architecture="eva02_tiny_patch14_224", size="11")),
    "family_eva02_squash": (None, None, dict(architecture="eva02_base_patch14_448", size="11")),
}


def pictures():
    """Noise, and two odd-sized pictures with edges, one of them tall enough that Pillow 13 resizes
    its columns first; and the ways to store one."""
    rng = np.random.default_rng(11)

    def scene(h, w):
        y, x = np.mgrid[:h, :w]
        planes = np.stack([127 + 100 * np.sin(x / 4), 127 + 90 * np.cos((x + y) / 6),
                           255 * ((x // 5 + y // 7) % 2)], -1)
        return np.clip(planes + rng.integers(-6, 7, planes.shape), 0, 255).astype(np.uint8)

    small = scene(13, 18)
    alpha = np.concatenate([small, rng.integers(0, 256, (13, 18, 1), dtype=np.uint8)], -1)
    alpha[0, :2, 3] = (0, 255)
    return {
        "noise": Image.fromarray(rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)),
        "wide": Image.fromarray(scene(19, 47)),
        "tall": Image.fromarray(scene(61, 17)),
        "gray": Image.fromarray(small[:, :, 0]),
        "alpha": Image.fromarray(alpha),
        "palette": Image.fromarray(small).quantize(9),
        "bits": Image.fromarray(small[:, :, 2]).convert("1"),
    }


def with_size(processor, size):
    """The call's arguments for `--size`."""
    h, w = (int(n) for n in (size.split("x") * 2)[:2])
    kind = type(processor).__name__
    if kind.startswith("Sam"):
        return dict(size={"longest_edge": h}, pad_size={"height": h, "width": h})
    both = {"height": h, "width": w}
    if kind.startswith(("Bit", "CLIP")):
        return dict(size={"shortest_edge": h} if h == w else both, crop_size=both)
    return dict(size=both)


def run(case, model_type, preprocessor, how, images):
    """Named results of a case, and its row of cases.json."""
    row, out = {}, {}
    names = how.get("pictures", ["noise", "tall"])
    if "timm" in how or "architecture" in how:
        pretrained = how.get("timm") or timm.get_pretrained_cfg(how["architecture"]).to_dict()
        row["config"] = {"architecture": how.get("architecture", "eva02_base_patch14_224")}
        if "timm" in how:
            row["config"]["pretrained_cfg"] = how["timm"]
        args = {}
        if "size" in how:
            args = dict(img_size=int(how["size"]))
            row["size"] = how["size"]
        transform = create_transform(**resolve_data_config(args, pretrained_cfg=pretrained),
                                     is_training=False)
        for name in names:
            out[f"{name}.torchvision"] = transform(images[name])[None].numpy()
        return row, out
    row["config"] = {"model_type": model_type}
    if preprocessor:
        row["nested" if how.get("nested") else "preprocessor"] = preprocessor
    if "size" in how:
        row["size"] = how["size"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(row["config"]))
        given = preprocessor or how["like"]
        if how.get("nested"):
            (folder / "processor_config.json").write_text(json.dumps({"image_processor": given}))
        else:
            (folder / "preprocessor_config.json").write_text(json.dumps(given))
        for backend in ("torchvision",) if case == "pictures" else ("torchvision", "pil"):
            processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
            more = with_size(processor, how["size"]) if "size" in how else {}
            for name in names:
                # What a class does not convert itself, its callers do.
                image = Image.fromarray(convert_to_rgb(images[name], return_numpy=True))
                pixels = processor(image, return_tensors="pt", **more)["pixel_values"]
                out[f"{name}.{backend}"] = pixels.float().numpy()
                if case == "pictures":
                    direct = processor(images[name], return_tensors="pt")["pixel_values"]
                    assert (direct.float().numpy() == out[f"{name}.{backend}"]).all()
    return row, out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out",
                        type=Path,
                        default=Path(__file__).resolve().parent.parent /
                        "tests/parity/fixtures/processors")
    out = parser.parse_args().out
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert int(PIL.__version__.split(".")[0]) >= 13
    transformers.utils.logging.set_verbosity_error()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    images = pictures()
    for name, image in images.items():
        image.save(out / f"{name}.png")
    rows = {}
    for case, (model_type, preprocessor, how) in CASES.items():
        rows[case], tensors = run(case, model_type, preprocessor, how, images)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()},
                  out / f"{case}.safetensors")
    model = load(out.parent / "depth_anything_sparse_config")
    pixels = DPTImageProcessor(**{k: v for k, v in DPT.items() if k != "image_processor_type"})(
        images["noise"], size=square(28), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        save_file({"predicted_depth": model(pixels).predicted_depth.numpy()},
                  out / "pipeline.safetensors")
    (out / "cases.json").write_text(json.dumps(rows, indent=1) + "\n")
    files = sorted(out.iterdir())
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files)} bytes, "
          f"largest {max(f.stat().st_size for f in files)}")


if __name__ == "__main__":
    main()
