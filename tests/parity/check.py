"""The other side of run.sh: what tests/train/parity.rs wrote, done again by PyTorch in f64, by NumPy and Pillow, and by
Keras's rule for class folders; then compared. Ends with 1 if anything differs.
"""

import json
import math
import os
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import load_file
from torch.optim import lr_scheduler as lr

OUT = pathlib.Path(sys.argv[1])
TOLERANCE = 1e-4
ACTIVATIONS = {
    "identity": lambda x: x, "relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid, "sigmoid": torch.sigmoid, "gelu": F.gelu,
}


class Network:
    """A case's network on tensors by name."""

    def __init__(self, case, tensors):
        self.case = case
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def conv(self, x, layer):
        of = lambda name: self.tensors.get(f"base.{name}")
        name, stride, padding = layer["name"], layer["stride"], layer["padding"]
        weight = of(f"{name}.weight")
        if padding == "same":
            kernel = weight.shape[-1]
            both = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
            (top, left) = (zeros // 2 for zeros in both)
            x = F.pad(x, (left, both[1] - left, top, both[0] - top))
            padding = 0
        bias = of(f"{name}.bias") if layer["bias"] else None
        x = F.conv2d(x, weight, bias, stride, padding, groups=layer["groups"])
        if norm := layer["norm"]:
            mean, variance, scale, shift = (
                of(f"{norm['name']}.{part}") for part in ("running_mean", "running_var", "weight", "bias"))
            x = F.batch_norm(x, mean, variance, scale, shift, False, 0.0, norm["epsilon"])
        return ACTIVATIONS[layer["activation"]](x)

    def layer(self, x, layer):
        kind = layer["kind"]
        if kind == "conv":
            return self.conv(x, layer)
        if kind == "max":
            return F.max_pool2d(x, layer["kernel"], layer["stride"], layer["padding"])
        if kind == "average":
            return F.avg_pool2d(x, layer["kernel"], layer["stride"])
        if kind == "squeeze":
            means = x.mean((2, 3), keepdim=True)
            return x * self.conv(self.conv(means, layer["reduce"]), layer["expand"])
        shortcut = self.conv(x, layer["shortcut"]) if layer["shortcut"] else x
        for inner in layer["body"]:
            x = self.layer(x, inner)
        return ACTIVATIONS[layer["activation"]](x + shortcut)

    def forward(self, x):
        for block in self.case["blocks"]:
            for layer in block["layers"]:
                x = self.layer(x, layer)
        x = x.mean((2, 3)) if self.case["pooled"] else x.flatten(1)
        dense = lambda x, name: F.linear(
            x, self.tensors[f"head.{name}.weight"], self.tensors[f"head.{name}.bias"])
        for number in range(len(self.case["hidden"])):
            x = F.relu(dense(x, f"hidden{number + 1}"))
        return dense(x, "output")

    def loss(self, x, labels, plain=False):
        """Mean over the pictures of weight · loss; validation is not weighted, as in Keras."""
        logits = self.forward(x)
        smoothing = self.case["smoothing"]
        if self.case["sigmoid"]:
            target = labels.double() * (1 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
        else:
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        if self.case["class_weights"] and not plain:
            losses = losses * torch.tensor(self.case["class_weights"]).double()[labels]
        return losses.mean()

    def trained(self):
        """Groups of (tensors, multiplier): the head, and each trainable block."""
        groups = [([t for name, t in self.tensors.items() if name.startswith("head.")], 1.0)]
        for number, block in enumerate(self.case["blocks"]):
            if block["trainable"]:
                names = set(parameter_names(block["layers"]))
                own = [t for name, t in self.tensors.items() if name in names]
                groups.append((own, self.case["first_block_rate"] if number == 0 else 1.0))
        return [(own, multiplier) for own, multiplier in groups if own]


def parameter_names(layers):
    for layer in layers:
        if layer["kind"] == "conv":
            yield f"base.{layer['name']}.weight"
            yield f"base.{layer['name']}.bias"
            if layer["norm"]:
                yield f"base.{layer['norm']['name']}.weight"
                yield f"base.{layer['norm']['name']}.bias"
        elif layer["kind"] == "squeeze":
            yield from parameter_names([layer["reduce"], layer["expand"]])
        elif layer["kind"] == "residual":
            yield from parameter_names(layer["body"])
            if layer["shortcut"]:
                yield from parameter_names([layer["shortcut"]])


class KerasRmsProp(torch.optim.Optimizer):
    """keras.optimizers.RMSprop: rho 0.9, epsilon 1e-7 within the root."""

    def __init__(self, groups, lr):
        super().__init__(groups, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    v = self.state[p].get("v", torch.zeros_like(p))
                    v = self.state[p]["v"] = 0.9 * v + 0.1 * p.grad**2
                    p -= group["lr"] * p.grad / torch.sqrt(v + 1e-7)


def optimizer_of(config, groups):
    rate, kind = config["rate"], config["kind"]
    groups = [{"params": own, "lr": rate * multiplier} for own, multiplier in groups]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config["momentum"], nesterov=config["nesterov"])
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=rate, eps=1e-4, weight_decay=config["decay"])
    if kind == "adam":
        return torch.optim.Adam(groups, lr=rate, eps=1e-4)
    if kind == "rmsprop":
        own = dict(momentum=config["momentum"], centered=config["centered"])
        return torch.optim.RMSprop(groups, lr=rate, eps=1e-4, **own)
    return KerasRmsProp(groups, lr=rate)


def schedule_of(config, optimizer, steps):
    kind = config["kind"]
    if kind == "constant":
        return lr.ConstantLR(optimizer, factor=1.0)
    if kind == "cosine":
        lowest = [config["alpha"] * group["lr"] for group in optimizer.param_groups]
        # One eta_min serves all groups of PyTorch's own, so the rule is written out.
        share = lambda step: (1 + math.cos(math.pi * step / steps)) / 2
        rates = [(group["lr"], low) for group, low in zip(optimizer.param_groups, lowest)]
        return lr.LambdaLR(optimizer, [lambda s, r=r, low=low: (low + (r - low) * share(s)) / r for r, low in rates])
    if kind == "warmup":
        return lr.LinearLR(optimizer, start_factor=1 / config["steps"], end_factor=1.0, total_iters=config["steps"] - 1)
    highest = [group["lr"] for group in optimizer.param_groups]
    return lr.OneCycleLR(optimizer, max_lr=highest, total_steps=steps, cycle_momentum=False)


def difference(found, expected):
    found, expected = (torch.cat([t.flatten().double() for t in ts]) for ts in (found, expected))
    return ((found - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def network(folder):
    """The larger of the weights' relative difference and the losses'. A frozen number that moved ends the program."""
    case = json.loads((folder / "case.json").read_text())
    start, end = (load_file(folder / f"{name}.safetensors") for name in ("start", "end"))
    images = load_file(folder / "images.safetensors")["images"].double()
    labels = torch.tensor(case["labels"]).long()
    assert len(case["order"]) == 5 and start.keys() == end.keys()
    net = Network(case, start)
    groups = net.trained()
    trained = [t.requires_grad_() for own, _ in groups for t in own]
    optimizer = optimizer_of(case["optimizer"], groups)
    schedule = schedule_of(case["schedule"], optimizer, 5)
    losses, seen = [], []
    for step, ids in enumerate(case["order"]):
        optimizer.zero_grad()
        loss = net.loss(images[ids], labels[ids])
        loss.backward()
        if clip := case["clip"]:
            if "norm" in clip:
                torch.nn.utils.clip_grad_norm_(trained, clip["norm"])
            else:
                torch.nn.utils.clip_grad_value_(trained, clip["value"])
        optimizer.step()
        schedule.step()
        seen.append((loss.item() * len(ids), len(ids)))
        if (step + 1) % case["steps_per_epoch"] == 0:
            with torch.no_grad():
                losses.append((sum(a for a, _ in seen) / sum(b for _, b in seen), net.loss(images, labels, True).item()))
            seen = []
    is_trained = {id(t) for t in trained}
    names = [name for name, t in net.tensors.items() if id(t) in is_trained]
    for name in start:
        if name not in names and not torch.equal(start[name], end[name]):
            raise SystemExit(f"{folder.name}: frozen {name} moved")
    weights = difference([end[n] for n in names], [net.tensors[n].detach() for n in names])
    loss = max(abs(a - b) / max(abs(b), 1e-3)
               for ours, theirs in zip(case["losses"], losses, strict=True) for a, b in zip(ours, theirs))
    return max(weights, loss)


def networks():
    worst, failed = 0.0, []
    folders = sorted((OUT / "networks").iterdir())
    for folder in folders:
        found = network(folder)
        worst = max(worst, found)
        if not found <= TOLERANCE:
            failed.append((folder.name, found))
    print(f"networks: {len(folders)} tried, {len(failed)} differ by more than {TOLERANCE}; the largest difference "
          f"{worst:.1e}")
    return failed


def index(at, length, fill):
    if fill in ("nearest", "constant"):
        return np.clip(at, 0, length - 1)
    if fill == "wrap":
        return np.mod(at, length)
    at = np.mod(at, 2 * length)
    return np.where(at < length, at, 2 * length - 1 - at)


def warped(picture, p):
    """Each output pixel's place in the input by 3×3 matrices in (x, y, 1); bilinear between whole indices."""
    height, width = picture.shape[:2]
    move = lambda x, y: np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
    turn, lean = np.radians(p["rotation"]), np.radians(p["shear"])
    rotate = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    shear = np.array([[1, -np.sin(lean), 0], [0, np.cos(lean), 0], [0, 0, 1]])
    centre = ((width - 1) / 2, (height - 1) / 2)
    whole = (move(*centre) @ rotate @ move(p["width_shift"], p["height_shift"]) @ shear
             @ np.diag([p["zoom_x"], p["zoom_y"], 1.0]) @ move(-centre[0], -centre[1]))
    rows, columns = np.mgrid[0:height, 0:width]
    places = whole @ np.stack([columns.ravel(), rows.ravel(), np.ones(height * width)])
    x, y = places[0].reshape(height, width), places[1].reshape(height, width)
    fill = p["fill"]
    outside = (x < -1e-9) | (x > width - 1 + 1e-9) | (y < -1e-9) | (y > height - 1 + 1e-9)
    if fill in ("nearest", "constant"):
        x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = (x - left)[..., None], (y - top)[..., None]
    at = lambda row, column: picture[index(row, height, fill), index(column, width, fill)]
    upper = at(top, left) * (1 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (1 - across) + at(top + 1, left + 1) * across
    out = upper * (1 - down) + lower * down
    if fill == "constant":
        out[outside] = 37.0
    return out


def brightened(picture, factor):
    """Pillow's own, on whole levels."""
    image = Image.fromarray(picture.astype(np.uint8))
    return np.asarray(ImageEnhance.Brightness(image).enhance(factor), dtype=float)


def augmentation(p):
    """The largest difference in grey levels."""
    shape = (p["height"], p["width"], 3)
    picture = np.array(p["picture"], dtype=float).reshape(shape)
    out = warped(picture, p)
    if p["channel_shift"] is not None:
        out = np.clip(out + p["channel_shift"], out.min(), out.max())
    if p["flip_horizontal"]:
        out = out[:, ::-1]
    if p["flip_vertical"]:
        out = out[::-1]
    found = np.array(p["varied"]).reshape(shape)
    if p["brightness"] is None:
        return np.abs(found - out).max(), 1e-3
    # A level that lies within rounding of a whole number may be cut to either side of it.
    near = np.abs(out - np.round(out)) < 1e-3
    nudges = [np.where(near, nudge, 0) for nudge in (0, 2e-3, -2e-3)]
    allowed = [brightened(np.clip(out + nudge, 0, 255), p["brightness"]) for nudge in nudges]
    return np.minimum.reduce([np.abs(found - levels) for levels in allowed]).max(), 1e-3


def augmentations():
    cases = json.loads((OUT / "augmentations/cases.json").read_text())
    worst, failed = 0.0, []
    for number, case in enumerate(cases):
        found, tolerance = augmentation(case)
        worst = max(worst, found)
        if not found <= tolerance:
            failed.append((number, found))
    print(f"augmentations: {len(cases)} tried, {len(failed)} differ by more than a thousandth of a grey level; "
          f"the largest difference {worst:.1e}")
    return failed


EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def keras_order(root):
    """keras.utils.image_dataset_from_directory and flow_from_directory: classes sorted; os.walk with folders and files
    sorted."""
    classes = sorted(name for name in os.listdir(root) if os.path.isdir(root / name))
    items = []
    for label, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True), key=lambda entry: entry[0]):
            for file in sorted(files):
                if file.lower().endswith(EXTENSIONS):
                    items.append([str(pathlib.Path(folder, file).relative_to(root)), label])
    return {"classes": classes, "items": items}


def folders():
    roots = sorted(path for path in (OUT / "folders").iterdir() if path.is_dir())
    failed = [(root.name, "") for root in roots
              if json.loads(root.with_suffix(".json").read_text()) != keras_order(root)]
    print(f"folders: {len(roots)} tried, {len(failed)} in another order")
    return failed


failures = networks() + augmentations() + folders()
print(*failures, sep="\n", end="\n" if failures else "")
sys.exit(bool(failures))
