#!/usr/bin/env python3
"""Makes the small files of tests/io/fixtures with other people's writers, so that our readers are
not only tested against our own, and the seeds of tests/fuzz (inputs that a fuzzer found, named
crash-*, are kept by hand). Needs numpy, safetensors and Pillow; the tests need none of them.

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


# ---- seeds of the fuzz targets
seeds = out.parent.parent / "fuzz" / "seeds"


def seed(target, name, data):
    (seeds / target).mkdir(parents=True, exist_ok=True)
    (seeds / target / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(header, data=b"", n=None):
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if n is None else n) + header + data


def entry(name, dtype, shape, begin, end):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


seed("safetensors", "reference", (out / "reference.safetensors").read_bytes())
seed("safetensors", "empty", safetensors("{}"))
seed("safetensors", "short", b"\0" * 7)
seed("safetensors", "huge-length", safetensors("{}", n=2**64 - 5))
seed("safetensors", "one", safetensors("{" + entry("t", "I32", "[2,2]", 0, 16) + "}", bytes(16)))
seed("safetensors", "metadata", safetensors(
    '{"__metadata__":{"a":"\\u00e9"},' + entry("t", "F8_E4M3", "[3]", 0, 3) + "}", bytes(3)))
seed("safetensors", "extra", safetensors(
    '{"t":{"x":[{"y":null}],"dtype":"U8","shape":[],"data_offsets":[0,1]}}', bytes(1)))
seed("safetensors", "overflow", safetensors(
    "{" + entry("t", "F32", "[2,18446744073709551614]", 0, 16) + "}", bytes(16)))
seed("safetensors", "overlap", safetensors(
    "{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("b", "U8", "[4]", 3, 7) + "}", bytes(7)))
seed("safetensors", "odd", safetensors(
    "{" + entry("a", "BOOL", "[1]", 0, 1) + "," + entry("b", "BF16", "[2]", 1, 5) + "}", bytes(5)))

seed("safetensors_index", "plain", '{"metadata":{"total_size":12},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}')
seed("safetensors_index", "evil", '{"weight_map":{"a":"../m"}}')
seed("safetensors_index", "twice", '{"weight_map":{"a":"m","a":"n"}}')
seed("safetensors_index", "kinds", '{"weight_map":{"a":null}}')

seed("json", "all", '{"a":[1,-2,3.5e-7,18446744073709551615,1e400],"b":"\\u00e9\\ud83d\\ude00\\n","c":{},"d":[],"e":null,"f":true}')
seed("json", "numbers", "[0,-0,1e-400,123456789012345678901234567890,0.1,2.2250738585072011e-308]")
seed("json", "deep", "[" * 70 + "]" * 70)
seed("json", "twice", '{"a":1,"\\u0061":2}')
seed("json", "surrogate", '"\\udc00"')
seed("json", "bytes", b'"\xff"')

for name in ("rgb", "rgba", "gray16", "bits", "palette", "interlaced16"):
    seed("png", name, (out / f"{name}.png").read_bytes())
transparent = Image.open(out / "palette.png")
transparent.info["transparency"] = 2
transparent.save(seeds / "png" / "transparent", "PNG", transparency=2)
for name in ("rgb", "progressive", "gray", "cmyk"):
    seed("jpeg", name, (out / f"{name}.jpg").read_bytes())

small = Image.fromarray(smooth[:16, :16])
(seeds / "geotiff").mkdir(parents=True, exist_ok=True)
for codec in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "zstd"):
    small.save(seeds / "geotiff" / codec, "TIFF", compression=codec)
for codec in ("group3", "group4", "tiff_ccitt"):
    Image.open(out / "bits.png").convert("1").save(seeds / "geotiff" / codec, "TIFF", compression=codec)
Image.open(out / "palette.png").save(seeds / "geotiff" / "palette", "TIFF")


def tiff(tags, data, big=False, order="<"):
    """A TIFF of one page. tags: {number: (type, values)}; tag 273 or 324 gets the offsets of the
    blocks in data, and the tag beside it their lengths."""
    first = 325 if 324 in tags else 279
    tags[first - (1 if first == 325 else 6)] = (4, [0] * len(data))
    tags[first] = (4, [len(d) for d in data])
    code = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 12: "d"}
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    inline, width = (8, 20) if big else (4, 12)
    end = len(head) + (8 if big else 2) + width * len(tags) + (8 if big else 4)

    def pack(kind, values):
        if kind == 2:
            return values
        return b"".join(struct.pack(order + code[kind], v) for v in values)

    extra = {t: len(pack(*v)) for t, v in tags.items() if len(pack(*v)) > inline}
    at, place = end, {}
    for t in sorted(extra):
        place[t] = at
        at += extra[t] + extra[t] % 2
    offsets = []
    for d in data:
        offsets.append(at if d else 0)
        at += len(d)
    tags[324 if first == 325 else 273] = (4, offsets)
    body = struct.pack(order + ("Q" if big else "H"), len(tags))
    for t in sorted(tags):
        kind, values = tags[t]
        raw = pack(kind, values)
        value = (struct.pack(order + ("Q" if big else "I"), place[t]) if t in place
                 else raw.ljust(inline, b"\0"))
        body += struct.pack(order + ("HHQ" if big else "HHI"), t, kind, len(values)) + value
    body += struct.pack(order + ("Q" if big else "I"), 0)
    tail = b"".join(pack(*tags[t]) + b"\0" * (extra[t] % 2) for t in sorted(extra))
    return head + body + tail + b"".join(data)


def base(w, h, bits, bands, fmt=1, compression=1):
    return {256: (4, [w]), 257: (4, [h]), 258: (3, [bits] * bands), 259: (3, [compression]),
            262: (3, [1]), 277: (3, [bands]), 339: (3, [fmt] * bands)}


geo = {33550: (12, [10, 10, 0]), 33922: (12, [0, 0, 0, 4e5, 58e5, 0]),
       34735: (3, [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]), 34737: (2, b"test|\0"),
       42113: (2, b"-9999\0"),
       42112: (2, b'<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">B1</Item>'
                  b'<Item name="CLASS_1">water</Item></GDALMetadata>\0')}
noise = bytes(i * 97 % 251 for i in range(4096))
tiled = base(20, 20, 16, 2, 2) | geo | {284: (3, [1]), 322: (3, [16]), 323: (3, [16]), 324: None}
seed("geotiff", "tiled-geo", tiff(tiled, [noise[:1024]] * 4))
packed = base(20, 20, 16, 1, 1, 8) | {322: (3, [16]), 323: (3, [16]), 324: None, 317: (3, [2])}
seed("geotiff", "tiled-deflate-big", tiff(packed, [zlib.compress(noise[:512])] * 4, big=True))
seed("geotiff", "planar-f32", tiff(base(8, 8, 32, 3, 3) | {278: (3, [8]), 284: (3, [2])}, [noise[:256]] * 3))
seed("geotiff", "f16-predictor", tiff(base(8, 8, 16, 1, 3, 8) | {278: (3, [8]), 317: (3, [3])},
                                      [zlib.compress(noise[:128])], order=">"))
for bits in (1, 5, 12, 24):
    row = (9 * bits * 2 + 7) // 8
    seed("geotiff", f"bits{bits}", tiff(base(9, 4, bits, 2) | {278: (3, [2]), 284: (3, [1])},
                                        [noise[:2 * row]] * 2, order=">"))
seed("geotiff", "sparse", tiff(base(16, 16, 8, 1) | {322: (3, [16]), 323: (3, [16]), 324: None, 42113: (2, b"7\0")}, [b""]))
seed("geotiff", "f64-nodata", tiff(base(4, 4, 64, 1, 3) | {278: (3, [4]), 42113: (2, b"nan\0")}, [noise[:128]]))
