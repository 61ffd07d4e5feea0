#!/usr/bin/env python3
"""Makes the small files of tests/io/fixtures with other people's writers, so that our readers are
not only tested against our own. Needs numpy, safetensors and Pillow; the tests need none of them.

    python3 scripts/make_io_fixtures.py
"""
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

out = pathlib.Path(__file__).resolve().parent.parent / "tests" / "io" / "fixtures"
out.mkdir(parents=True, exist_ok=True)

save_file({
    "block.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "block.0.bias": np.array([-1.5, 2.0], dtype=np.float64),
    "ids": np.arange(5, dtype=np.int64),
    "half": np.array([[1.5], [-0.25]], dtype=np.float16),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.array(7, dtype=np.int32),
    "caf\u00e9 \"quoted\"\n": np.array([1, 2, 3], dtype=np.uint8),
}, out / "reference.safetensors", metadata={"format": "pt"})

h, w = 19, 23
y, x = np.mgrid[0:h, 0:w]
rgb = np.stack([x * 11 % 256, y * 13 % 256, (x + y) * 7 % 256], -1).astype(np.uint8)
Image.fromarray(rgb).save(out / "rgb.png")
Image.fromarray(np.dstack([rgb, (x * y % 256).astype(np.uint8)])).save(out / "rgba.png")
Image.fromarray(rgb[..., 0]).save(out / "gray.png")
Image.fromarray((x * 2749 + y * 31).astype(np.uint16)).save(out / "gray16.png")
Image.fromarray((x + y) % 2 == 0).save(out / "bits.png")
palette = Image.fromarray(((x + 3 * y) % 5).astype(np.uint8), "P")
palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150])
palette.save(out / "palette.png", bits=4)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Adam7, which Pillow reads but does not write. 16 bits, RGB, no filters.
deep = (rgb.astype(np.uint16) * 257 + 1).astype(">u2")
lines = b""
for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                       (1, 0, 2, 2), (0, 1, 1, 2)]:
    for row in deep[y0::dy, x0::dx]:
        lines += b"\0" + row.tobytes()
(out / "interlaced16.png").write_bytes(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 1)) +
    chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))

smooth = np.stack([x * 10, y * 12, 255 - x * 5 - y * 5], -1).astype(np.uint8)
Image.fromarray(smooth).save(out / "rgb.jpg", quality=95, subsampling=0)
Image.fromarray(smooth).save(out / "progressive.jpg", quality=95, subsampling=2, progressive=True)
Image.fromarray(smooth[..., 0]).save(out / "gray.jpg", quality=95)
Image.fromarray(smooth).convert("CMYK").save(out / "cmyk.jpg")
# What Pillow's libjpeg-turbo makes of them, as raw bytes: row by row, RGB.
for name in ("rgb", "progressive", "gray"):
    (out / f"{name}.jpg.raw").write_bytes(np.asarray(Image.open(out / f"{name}.jpg")).tobytes())
