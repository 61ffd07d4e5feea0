#!/usr/bin/env python3
"""Small checkpoints as torch.save writes them, for tests/io: every layout that the reader knows.

tests/parity/fixtures/torch/<name>.pth (.pt, .ckpt) with <name>.safetensors beside it: the tensors
that reading it must give, under the names that it must give them. What must be refused is
refuse_<name>.pth, with the word that the message must hold in refuse.json. The seeds of the fuzz
target are copies of the smaller files.

    python scripts/make_torch_fixtures.py [--out tests/parity/fixtures/torch]
"""
import argparse
import collections
import json
import pathlib
import pickle
import shutil
import warnings

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        collections.OrderedDict(conv=torch.nn.Conv2d(2, 3, 2),
                                norm=torch.nn.BatchNorm2d(3),
                                fc=torch.nn.Linear(3, 2, bias=False)))


def cases():
    state = net().state_dict()
    yield "plain.pth", state, state, {}
    yield "legacy.pth", state, state, dict(_use_new_zipfile_serialization=False)
    yield "protocol4.pth", state, state, dict(pickle_protocol=4)
    yield "legacy_protocol5.pth", state, state, dict(_use_new_zipfile_serialization=False,
                                                     pickle_protocol=5)
    model = net(1)
    yield "parameters.pth", dict(model.named_parameters()), {
        k: v.detach()
        for k, v in model.named_parameters()
    }, {}
    lightning = {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": collections.OrderedDict(
            ("model." + k, v) for k, v in net(2).state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [torch.optim.Adam(net(2).parameters()).state_dict()],
        "hyper_parameters": argparse.Namespace(lr=1e-3, path=pathlib.PosixPath("x"), size=(1, 2)),
        "callbacks": {},
    }
    yield "lightning.ckpt", lightning, dict(lightning["state_dict"]), {}
    dino = {"teacher": net(3).state_dict(), "student": net(4).state_dict(), "epoch": 1}
    yield "teacher.pth", dino, dino["teacher"], {}
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    views = {
        "transposed": base.transpose(0, 2),
        "sliced": base[:, 1:, ::2],
        "shared": base,
        "row": base[1],
        "expanded": base[0, 0, :2].expand(3, 2),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    contiguous = {k: v.contiguous().clone() for k, v in views.items()}
    yield "views.pth", views, contiguous, {}
    yield "legacy_views.pth", views, contiguous, dict(_use_new_zipfile_serialization=False)
    g = torch.Generator().manual_seed(5)
    kinds = {}
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        kinds[str(dtype)] = torch.randn(3, 2, generator=g).to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16,
                  torch.uint32):
        kinds[str(dtype)] = torch.randint(0, 100, (2, 2), generator=g).to(dtype)
    kinds["torch.bool"] = torch.tensor([True, False, True])
    yield "types.pth", kinds, kinds, {}
    nested = {"a": {"b": {"c": torch.ones(2)}, "d": torch.zeros(1)}, "list": [torch.ones(1)], "n": 1}
    yield "nested.pth", {"x": nested}, {"b.c": torch.ones(2), "d": torch.zeros(1)}, {}
    buffer = torch.nn.Buffer(torch.full((2, ), 3.0))
    yield "buffer.pth", {"buffer": buffer}, {"buffer": torch.full((2, ), 3.0)}, {}


class Surprise:
    """What a hostile file would run."""

    def __reduce__(self):
        import os
        return os.system, ("echo moraine ran it >&2", )


def refused():
    class Local(torch.nn.Linear):
        pass

    yield "code", {"x": torch.ones(1), "y": Surprise()}, "posix.system"
    yield "module", torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"
    yield "sparse", {"x": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"
    yield "evaluation", {"x": pickle_call("builtins", "eval", "1+1")}, "__builtin__.eval"


def pickle_call(module, name, argument):
    f = getattr(__import__(module), name)

    class Call:

        def __reduce__(self):
            return f, (argument, )

    return Call()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/parity/fixtures/torch")
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, value, expected, how in cases():
        torch.save(value, out / name, **how)
        save_file({k: v.detach().clone().contiguous()
                   for k, v in expected.items()}, (out / name).with_suffix(".safetensors"))
    model = net(6)
    torch.jit.script(model).save(out / "script.pt")
    save_file(dict(model.state_dict()), out / "script.safetensors")
    words = {}
    for name, value, word in refused():
        torch.save(value, out / f"refuse_{name}.pth")
        words[f"refuse_{name}.pth"] = word
    (out / "refuse_pickle.pth").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    words["refuse_pickle.pth"] = "torch.save did not write"
    (out / "refuse.json").write_text(json.dumps(words, indent=1, sort_keys=True) + "\n")
    seeds = ROOT / "tests/fuzz/seeds/torch"
    seeds.mkdir(parents=True, exist_ok=True)
    for file in sorted(out.iterdir()):
        if file.suffix in (".pth", ".pt", ".ckpt") and file.stat().st_size < 8000:
            shutil.copy(file, seeds / file.stem)
    for file in sorted(out.iterdir()):
        print(f"{file.name}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
