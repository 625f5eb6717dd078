"""PyTorch, eager, with channels-last memory: its fastest layout for convolutions on a CPU."""

import sys

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from peer import BATCH, HIDDEN, RATE, SIDE, THREADS, labels, mean_ms, median_ms, pixels, read_weights, serve, shape_of

# Where each block's convolutions start in torchvision's list of layers.
FIRST_OPEN = {"frozen": None, "block5": 28, "all": 0}


def base():
    model = nn.Sequential()
    model.add_module("features", make_layers(cfgs["E"]))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in read_weights(sys.argv[1]).items()})
    return model.features.to(memory_format=torch.channels_last)


def channels_last(*shape):
    return torch.from_numpy(pixels(*shape)).contiguous(memory_format=torch.channels_last)


def forward(pictures, side):
    model, images = base().eval(), channels_last(pictures, 3, side, side)

    @torch.inference_mode()
    def step():
        return model(images)

    return lambda times: median_ms(step, times), step().numpy()


def train_step(first_open):
    conv_base = base()
    for index, layer in enumerate(conv_base):
        layer.requires_grad_(first_open is not None and index >= first_open)
    features = 512 * (SIDE // 32) ** 2
    head = nn.Sequential(nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    model = nn.Sequential(conv_base, head).train()
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=RATE, alpha=0.9, eps=1e-7)
    loss = nn.BCEWithLogitsLoss()
    images, wanted = channels_last(BATCH, 3, SIDE, SIDE), torch.from_numpy(labels())[:, None]

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(model(images), wanted).backward()
        optimizer.step()

    return lambda times: mean_ms(step, times), None


def prepare(work):
    if shape := shape_of(work):
        return forward(*shape)
    return train_step(FIRST_OPEN[work.removeprefix("step_")])


torch.set_num_threads(THREADS)
serve(torch.__version__, prepare)
