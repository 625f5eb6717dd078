"""Pictures per second of `headstart predict` beside timm's way (as its inference.py: a loader with two workers), and the
peak memory of both, in one run: a folder of pictures, EfficientNet-Lite0 at 224×224, two threads each, in turn.

    python benches/peers/predict.py WEIGHTS PICTURES.tar [--pictures 10000] [--rounds 3]

Needs `cargo build --release --features cli`, torch and timm. WEIGHTS is timm's tf_efficientnet_lite0.safetensors.
"""

import argparse
import csv
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
BASE = "tf_efficientnet_lite0"


def timm_side(folder, weights, out):
    """What inference.py does: a model, its own transform, a loader, softmax, a table."""
    import timm
    import torch
    from safetensors.torch import load_file
    from timm.data import ImageDataset, create_loader, resolve_data_config

    torch.set_num_threads(2)
    model = timm.create_model(BASE, pretrained=False)
    model.load_state_dict(load_file(weights))
    model.reset_classifier(2)
    model.eval()
    config = resolve_data_config({"crop_pct": 1.0}, model=model)
    loader = create_loader(ImageDataset(folder), batch_size=64, use_prefetcher=False, num_workers=2, device="cpu",
                           **config)
    names = loader.dataset.filenames(basename=False)
    begin, rows = time.perf_counter(), []
    with torch.inference_mode():
        for images, _ in loader:
            rows.extend(model(images).softmax(-1).topk(1).indices[:, 0].tolist())
    with open(out, "w", newline="") as file:
        csv.writer(file).writerows(zip(names, rows))
    print(time.perf_counter() - begin)


def timed(command):
    """Seconds and peak MB of a process, and of those it started, with what it printed."""
    begin = time.perf_counter()
    environment = {**os.environ, "RAYON_NUM_THREADS": "2"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, (command, status)
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, printed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("tar", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--headstart", default=str(ROOT / "target/release/headstart"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        with tarfile.open(arguments.tar) as tar:
            members = (member for member in tar if member.isfile())
            for _, member in zip(range(arguments.pictures), members):
                tar.extract(member, place / "pictures", filter="data")
        train = [arguments.headstart, "train", str(ROOT / "examples/santa/pictures"), "--base", BASE, "--weights",
                 str(arguments.weights), "--recipe", "linear", "--epochs", "1", "--out", str(place / "run")]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours = [arguments.headstart, "predict", str(place / "run"), str(place / "pictures"), "--csv"]
        theirs = [sys.executable, __file__, "--timm", str(place / "pictures"), str(arguments.weights), str(place / "csv")]
        found = {"headstart": [], "timm": [], "timm, its loop alone": []}
        for number in range(arguments.rounds):
            seconds, peak, printed = timed(ours)
            assert printed.count(b"\n") == arguments.pictures + 1
            found["headstart"].append((seconds, peak))
            seconds, peak, printed = timed(theirs)
            found["timm"].append((seconds, peak))
            found["timm, its loop alone"].append((float(printed), peak))
            print("round", number + 1, {name: round(values[-1][0], 1) for name, values in found.items()}, flush=True)
        for name, values in found.items():
            seconds = statistics.median(value[0] for value in values)
            peak = max(value[1] for value in values)
            print(f"{name}: {arguments.pictures / seconds:.0f} pictures/s ({seconds:.1f} s), peak {peak:.0f} MB of its process")
        ratio = [b[0] / a[0] for a, b in zip(found["headstart"], found["timm, its loop alone"])]
        print(f"ratio to timm's loop alone, median of {arguments.rounds} rounds: {statistics.median(ratio):.2f}")


if sys.argv[1:2] == ["--timm"]:
    timm_side(*sys.argv[2:])
else:
    main()
