"""What every Python peer shares: the pixels, the weights and the conversation with compare.py.

A peer is one process that answers lines of its standard input with one line each of its standard output:

    prepare WORK     ok [SUM SQUARES SAMPLE…]   what `fingerprint` makes of the features, where there are any
    run WORK TIMES   ok FIGURE                  milliseconds of one of TIMES repetitions; pictures a second for `loader…`
    memory           ok MB                      the most memory this process ever held
    cost WORK        ok MULTIPLICATIONS BYTES   of one repetition; ours alone answers this

or `error REASON`. Before the first it says `ready VERSION`. benches/peers/ours.rs and rten/ say the same in Rust.
"""

import itertools
import os
import re
import statistics
import sys
import time

import numpy as np

THREADS = 2
BATCH, HIDDEN, RATE = 20, 132, 2e-5
VGG, LITE = "vgg19", "tf_efficientnet_lite0"
# timm's bases beside VGG19, and what the names of the tensors in their last stage begin with.
LAST_STAGE = {
    "resnet18": ("layer4.",),
    "resnet50": ("layer4.",),
    "repvgg_a0": ("stages.3.",),
    LITE: ("blocks.6.", "conv_head.", "bn2."),
    "efficientnet_b0": ("blocks.6.", "conv_head.", "bn2."),
    "mobilenetv3_large_100": ("blocks.5.", "blocks.6."),
}
# How many of the features are shown beside their sum and their squares' sum.
SAMPLES = 61
POOL = "pool"
CONVOLUTIONS = [64, 64, POOL, 128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4, POOL]


def layers():
    """torchvision's name, input and output channels of each convolution of VGG19."""
    index, c_in = 0, 3
    for c_out in CONVOLUTIONS:
        if c_out is POOL:
            index += 1
            continue
        yield f"features.{index}", c_in, c_out
        # A convolution and its ReLU.
        index, c_in = index + 2, c_out


def pixels(*shape):
    """The same values in 0 to 1 in every language: a multiplicative hash of the position."""
    position = np.arange(np.prod(shape), dtype=np.uint64)
    hashed = (position * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    return ((hashed >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)).reshape(shape)


def labels():
    return (np.arange(BATCH) % 2).astype(np.float32)


def read_weights(models, base=VGG):
    from safetensors.numpy import load_file

    return load_file(os.path.join(models, f"{base}.safetensors"))


def parts_of(work):
    """The base and the rest of a key: `resnet18_8x224`, `resnet18_step_all`; without a base it is VGG19's."""
    for base in LAST_STAGE:
        if work.startswith(f"{base}_"):
            return base, work.removeprefix(f"{base}_")
    return VGG, work.removeprefix("forward_")


def shape_of(rest):
    """(pictures, side) of `20x64`; None for other work."""
    match = re.fullmatch(r"(\d+)x(\d+)", rest)
    return match and tuple(map(int, match.groups()))


def side_of(base):
    """Height and width in pixels of the pictures that a base is trained on: the notebook's for VGG."""
    return 64 if base == VGG else 128


def fingerprint(features):
    """What compare.py compares of features (N, C, H, W): the sum, the squares' sum, and some of them."""
    features = np.asarray(features, dtype=np.float64).ravel()
    samples = features[np.arange(SAMPLES) * features.size // SAMPLES]
    return [features.sum(), (features**2).sum(), *samples]


def fastest(ways):
    """The fastest of several ways to do one thing, by name: each is tried three times in turn."""
    taken = {name: [] for name in ways}
    for _ in range(3 if len(ways) > 1 else 0):
        for name, way in ways.items():
            taken[name].append(median_ms(way, 2))
    best = min(ways, key=lambda name: statistics.median(taken[name] or [0]))
    print({name: [round(value, 2) for value in values] for name, values in taken.items()}, best, file=sys.stderr, flush=True)
    return ways[best]


def median_ms(step, times):
    """One untimed turn, which fetches what the other frameworks have pushed out of the caches, then the median."""
    step()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def mean_ms(step, times):
    """As `median_ms`, with the mean: what an epoch divided by its steps is."""
    step()
    return total_ms(step, times) / times


def total_ms(step, times):
    start = time.perf_counter()
    for _ in range(times):
        step()
    return 1000 * (time.perf_counter() - start)


def rate_of(epoch):
    """times → pictures a second of as many epochs, each an iterable over batches, with the files in the system's cache."""

    def run(times):
        start = time.perf_counter()
        pictures = sum(len(batch) for _ in range(times) for batch in epoch())
        return pictures / (time.perf_counter() - start)

    run(1)
    return run


def batches_of(pictures):
    """Lists of BATCH pictures."""
    pictures = iter(pictures)
    return iter(lambda: list(itertools.islice(pictures, BATCH)), [])


def peak_mb():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def serve(version, prepare):
    """Talks to compare.py. `prepare(work)` returns (times → figure, features or None), or raises."""
    # The protocol keeps standard output to itself; what a framework prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(f"ready {version}", file=answers)
    run = None
    for line in sys.stdin:
        command, *words = line.split()
        try:
            if command == "prepare":
                run = None
                run, features = prepare(words[0])
                answer = ""
                if features is not None:
                    answer = "".join(f" {value:.9e}" for value in fingerprint(features))
            elif command == "run":
                answer = f" {run(int(words[1]))}"
            elif command == "memory":
                answer = f" {peak_mb()}"
            else:
                raise ValueError(f"no command {command}")
            print(f"ok{answer}", file=answers)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"error {reason}", file=answers)
