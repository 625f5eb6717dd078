"""timm's and torchvision's networks beside ours: files of ours are loaded strictly, files of theirs are made.

One JSON object a line comes in: `do`, which is `load` or `make`; `library`, `name` and `classes` of the network; `file`;
`pixels`, a path of raw floats, with their `shape`, as the network takes them. One goes out: `logits`, row by row.
"""

import json
import sys

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
from timm.utils.model import reparameterize_model


def network(library, name, classes):
    if library == "torchvision":
        return getattr(torchvision.models, name)(num_classes=classes)
    return timm.create_model(name, pretrained=False, num_classes=classes)


def scramble(model):
    """Numbers that no layer is made with, so that none is left out unseen."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean") or name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def save(model, file):
    state = model.state_dict()
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(state, file)
    elif file.endswith(".pth.tar"):
        # What training scripts leave: the weights among other things, of a network in DataParallel.
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "arch": "net", "state_dict": state, "best": 0.5, "args": [1, None, "x"]}, file)
    else:
        torch.save(state, file)


def answer(job):
    model = network(job["library"], job["name"], job["classes"]).eval()
    if job["do"] == "make":
        scramble(model)
        save(model, job["file"])
    else:
        if job["name"].startswith("repvgg"):
            model = reparameterize_model(model)
        model.load_state_dict(safetensors.torch.load_file(job["file"]), strict=True)
    pixels = np.fromfile(job["pixels"], "float32").reshape(job["shape"])
    with torch.inference_mode():
        return {"logits": model(torch.from_numpy(pixels)).tolist()}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
