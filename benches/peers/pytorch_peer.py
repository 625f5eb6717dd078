"""PyTorch with channels-last memory, its fastest layout for convolutions on a CPU. Forward passes are eager or compiled,
whichever is faster (VGG19's are eager); training steps are eager."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2.functional import resize

from make_models import loaded
from peer import (
    BATCH,
    HIDDEN,
    LAST_STAGE,
    LITE,
    RATE,
    THREADS,
    VGG,
    batches_of,
    fastest,
    labels,
    mean_ms,
    median_ms,
    parts_of,
    pixels,
    rate_of,
    serve,
    shape_of,
    side_of,
    total_ms,
)

PHOTOGRAPHS = Path(sys.argv[3])
# Where VGG's trainable layers start in torchvision's list.
FIRST_OPEN = {"frozen": None, "block5": 28, "all": 0}


def base(name):
    model = loaded(sys.argv[1], name)
    return (model.features if name == VGG else model).to(memory_format=torch.channels_last)


def channels_last(*shape):
    return torch.from_numpy(pixels(*shape)).contiguous(memory_format=torch.channels_last)


def forward(name, pictures, side):
    model, images = base(name).eval(), channels_last(pictures, 3, side, side)
    steps = {"eager": inferred(model, images)}
    if name != VGG:
        try:
            steps["compiled"] = compiled(model, images)
        except Exception as error:
            print(f"not compiled: {error}", file=sys.stderr)
    step = fastest(steps)
    return lambda times: median_ms(step, times), step().numpy()


def inferred(model, images):
    @torch.inference_mode()
    def step():
        return model(images)

    return step


def compiled(model, images):
    """By inductor, which folds batch norms and packs weights when they are frozen."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    inductor.freezing = True
    # What it starts would not stop when this process is stopped.
    inductor.compile_threads = 1
    fast = torch.compile(model)

    # Freezing is for no_grad.
    @torch.no_grad()
    def step():
        return fast(images)

    step()
    return step


def open_vgg(opened):
    """The base with an open part, and the notebook's head."""
    conv_base, first = base(VGG), FIRST_OPEN[opened]
    for index, layer in enumerate(conv_base):
        layer.requires_grad_(first is not None and index >= first)
    return nn.Sequential(conv_base, notebook_head(512 * (side_of(VGG) // 32) ** 2))


def notebook_head(features):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def open_base(name, opened):
    """The base with an open part, its batch norms with the statistics they have, and the means of its maps on a unit."""
    conv_base = base(name).eval()
    names = {"frozen": (), "last": LAST_STAGE[name], "all": ("",)}[opened]
    for key, parameter in conv_base.model.named_parameters():
        parameter.requires_grad_(key.startswith(names))
    with torch.no_grad():
        _, channels, _, _ = conv_base(torch.zeros(1, 3, 64, 64)).shape
    return nn.Sequential(conv_base, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


def train_step(name, opened):
    # VGG has nothing that training mode would change.
    model = open_vgg(opened) if name == VGG else open_base(name, opened)
    step, side = step_of(model), side_of(name)
    images, wanted = channels_last(BATCH, 3, side, side), torch.from_numpy(labels())[:, None]
    return lambda times: mean_ms(lambda: step(images, wanted), times), None


def step_of(model):
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=RATE, alpha=0.9, eps=1e-7)
    loss = nn.BCEWithLogitsLoss()

    def step(images, wanted):
        optimizer.zero_grad(set_to_none=True)
        loss(model(images), wanted).backward()
        optimizer.step()

    return step


def photographs(part):
    """Files, and the numbers of their classes."""
    folders = sorted(path for path in (PHOTOGRAPHS / part).iterdir())
    return [(str(file), label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]


def shuffled(files):
    return random.sample(files, len(files))


def batches(files, side):
    """Pixels (N, 3, side, side) in 0 to 1 and labels (N, 1), decoded ahead by as many threads as there are cores."""

    def small(file):
        picture = decode_jpeg(read_file(file[0]), mode=ImageReadMode.RGB)
        return resize(picture, [side, side], antialias=True), float(file[1])

    # Each thread works alone.
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for batch in batches_of(pool.map(small, files)):
            images, labels = zip(*batch, strict=True)
            images = torch.stack(images).float() / 255
            yield images.contiguous(memory_format=torch.channels_last), torch.tensor(labels)[:, None]


def loader_of_photographs():
    train, side = photographs("train"), side_of(LITE)
    images, _ = next(batches(photographs("validation"), side))
    return rate_of(lambda: (images for images, _ in batches(shuffled(train), side))), images.numpy()


def epoch_of_photographs(name):
    train, validation, side = photographs("train"), photographs("validation"), side_of(name)
    conv_base = open_base(name, "frozen")[0]
    with torch.no_grad():
        features = conv_base(torch.from_numpy(pixels(2, 3, side, side)))
    model = nn.Sequential(conv_base, notebook_head(features[0].numel()))
    step = step_of(model)

    def epoch():
        for images, wanted in batches(shuffled(train), side):
            step(images, wanted)
        with torch.inference_mode():
            for images, _ in batches(validation, side):
                model(images)

    epoch()
    return lambda times: total_ms(epoch, times) / times, features.numpy()


def prepare(work):
    name, rest = parts_of(work)
    if shape := shape_of(rest):
        return forward(name, *shape)
    if work == "loader_photographs":
        return loader_of_photographs()
    if rest == "epoch_photographs":
        return epoch_of_photographs(name)
    return train_step(name, rest.removeprefix("step_"))


torch.set_num_threads(THREADS)
serve(torch.__version__, prepare)
