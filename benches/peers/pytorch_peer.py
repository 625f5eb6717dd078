"""PyTorch with channels-last memory, its fastest layout for convolutions on a CPU. Forward passes are eager or compiled,
whichever is faster (VGG19's are eager); training steps are eager."""

import sys

import torch
from torch import nn

from make_models import loaded
from peer import (
    BATCH,
    HIDDEN,
    LAST_STAGE,
    RATE,
    THREADS,
    VGG,
    fastest,
    labels,
    mean_ms,
    median_ms,
    parts_of,
    pixels,
    serve,
    shape_of,
    side_of,
)

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
    features = 512 * (side_of(VGG) // 32) ** 2
    head = nn.Sequential(nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    return nn.Sequential(conv_base, head)


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
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=RATE, alpha=0.9, eps=1e-7)
    loss = nn.BCEWithLogitsLoss()
    side = side_of(name)
    images, wanted = channels_last(BATCH, 3, side, side), torch.from_numpy(labels())[:, None]

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(model(images), wanted).backward()
        optimizer.step()

    return lambda times: mean_ms(step, times), None


def prepare(work):
    name, rest = parts_of(work)
    if shape := shape_of(rest):
        return forward(name, *shape)
    return train_step(name, rest.removeprefix("step_"))


torch.set_num_threads(THREADS)
serve(torch.__version__, prepare)
