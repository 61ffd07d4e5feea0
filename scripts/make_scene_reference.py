#!/usr/bin/env python3
"""Statistics of the Python prototype of the scene generator, for tests/data/scene_test.cpp.

    python scripts/make_scene_reference.py FOLDER_OF_gen.py [TILES] > tests/parity/fixtures/scene_reference.inc

Needs numpy and torch. Renders TILES (default 1024) layouts at 1.5 m and at 1.8 m under the seven
named domains. A class is the unit of comparison, so that the sampling error of its share does not
enter its mean reflectance; `error` is the standard error of a mean between tiles.
"""
import sys

sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from gen import DOM, EMS, K, WL, fbm, layouts, render

torch.set_num_threads(1)
tiles = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
step = 64
print(f"// Made by scripts/make_scene_reference.py from the prototype; {tiles} tiles. Do not edit.")
print("// Noise: step, octaves, variance in a tile, mean squared step between neighbours.")
print("// Materials: domain, material, what the 4 bands see of it.")
print("// Shares of the 8 classes: gsd, 8 shares, 8 standard errors, mean height of trees and roofs (m).")
made = {}
random = np.random.default_rng(300000)
for scale, octaves in ((40, 3), (20, 2), (9, 2), (3, 2)):
    fields = [fbm(random, scale, octaves) for _ in range(4 * tiles)]
    spread = np.mean([f.var() for f in fields])
    slope = np.mean([(np.diff(f, axis=1) ** 2).mean() for f in fields])
    print(f"SCENE_NOISE({scale}, {octaves}, {spread:.5g}, {slope:.5g})")
for name in ("source", "strong"):
    domain = DOM[name][1]
    for m in range(len(EMS)):
        seen = []
        for c, w in zip(domain["c"], domain["w"]):
            g = np.exp(-0.5 * ((WL - c) / (w / 2.355)) ** 2)
            seen.append((g / g.sum() * EMS[m]).sum())
        print(f'SCENE_MATERIAL("{name}", {m}, ' + ", ".join(f"{v:.8f}" for v in seen) + ")")
for gsd in (1.5, 1.8):
    made[gsd] = [layouts(range(200000 + a, 200000 + a + step), gsd) for a in range(0, tiles, step)]
    lab = torch.cat([x["lab"] for x in made[gsd]]).long()
    high = torch.cat([x["h"] for x in made[gsd]])
    share = torch.stack([(lab == k).float().mean((1, 2)) for k in range(K)], 1).numpy()
    row = [gsd, *share.mean(0), *(share.std(0) / len(share) ** 0.5)]
    row += [float(high[lab == 5].mean()), float(high[lab == 6].mean())]
    print("SCENE_SHARES(" + ", ".join(f"{v:.5g}" for v in row) + ")")
print("// domain, class, 4 mean reflectances (B G R NIR), 4 standard errors, 4 deviations of pixels.")
for name, (gsd, domain) in DOM.items():
    total = [[] for _ in range(K)]
    square = [[] for _ in range(K)]
    count = [[] for _ in range(K)]
    for a, lay in enumerate(made[gsd]):
        x = render(lay, [domain] * step, torch.Generator().manual_seed(a))
        for k in range(K):
            m = (lay["lab"] == k)[:, None].float()
            total[k].append((x * m).sum((2, 3)).double().numpy())
            square[k].append((x * x * m).sum((2, 3)).double().numpy())
            count[k].append(m.sum((2, 3)).double().numpy())
    for k in range(K):
        s, q, n = (np.concatenate(v[k]) for v in (total, square, count))
        mean = s.sum(0) / n.sum()
        # ratio estimator between tiles
        error = np.sqrt(((s - mean * n) ** 2).sum(0)) / n.sum()
        spread = np.sqrt(q.sum(0) / n.sum() - mean**2)
        row = ", ".join(f"{v:.5g}" for v in (*mean, *error, *spread))
        print(f'SCENE_CLASS("{name}", {k}, {row})')
