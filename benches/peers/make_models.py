"""Writes the bases with random weights in every form the peers read: safetensors, ONNX and ncnn.

What is there already stays; remove the folder to make everything anew.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from peer import CONVOLUTIONS, LAST_STAGE, POOL, VGG, layers, pixels, read_weights


def vgg_weights():
    """He-normal weights and small biases under torchvision's names, so that no activation dies or grows."""
    rng = np.random.default_rng(1)
    tensors = {}
    for name, c_in, c_out in layers():
        scale = np.sqrt(2 / (9 * c_in))
        tensors[f"{name}.weight"] = rng.normal(0, scale, (c_out, c_in, 3, 3)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.01, c_out).astype(np.float32)
    return tensors


def weights(name):
    """Random weights under timm's names. Each batch norm's statistics are those that a batch of pictures has there, so
    that the features depend on the picture and neither die nor grow."""
    import torch
    from timm_bases import Base
    from torch import nn

    torch.manual_seed(1)
    base = Base(name)
    norms = [module for module in base.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in base.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, std=0.2)
        # The mean over all batches since the reset: over one.
        norm.momentum = None
        norm.reset_running_stats()
    for key, module in base.named_modules():
        if key.endswith(".bn3"):
            # A sum that each of many bodies turns around makes rounding grow from one to the next.
            module.weight.data *= 0.3
    with torch.no_grad():
        base.train()(pictures())
    base = base.fused().eval()
    check_accuracy(name, base)
    held = {key: value.numpy() for key, value in base.model.state_dict().items()}
    return {key: value for key, value in held.items() if not key.endswith("num_batches_tracked")}


def pictures():
    """Pictures with large and small structure in 0 to 1, and some of the noise that the peers are given."""
    import torch
    from torch.nn.functional import interpolate

    side = 224
    coarse = [interpolate(torch.rand(6, 3, size, size), (side, side), mode="bicubic") for size in (4, 16, 64, side)]
    blended = sum(coarse) / len(coarse)
    return torch.cat([blended.clamp(0, 1), torch.from_numpy(pixels(2, 3, side, side))])


def check_accuracy(name, base):
    """Stops where f32 is no good: peers that differ would not have to be wrong."""
    import copy

    import torch

    images = torch.from_numpy(pixels(2, 3, 224, 224))
    with torch.no_grad():
        exact = copy.deepcopy(base).double()(images.double())
        error = ((base(images) - exact).norm() / exact.norm()).item()
    size = exact.square().mean().sqrt().item()
    print(f"{name}: features' root mean square {size:.2f}, error of f32 {error:.0e}", file=sys.stderr)
    if not (0.01 < size < 100 and error < 5e-5):
        raise SystemExit(f"{name}: unfit weights")


def write_vgg_ncnn(folder, tensors):
    """ncnn's own format, with ReLU and bias fused into the convolution as its optimizer would: 32-bit weights."""
    lines = ["Input images 0 1 images 0=0 1=0 2=3"]
    blob, convolutions, data = "images", iter(layers()), []
    for index, step in enumerate(CONVOLUTIONS):
        if step is POOL:
            # 0: maximum, 1: kernel, 2: stride, 5: no padding
            kind, options = "Pooling", "0=0 1=2 2=2 5=1"
        else:
            name, _, c_out = next(convolutions)
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            # 0: outputs, 1: kernel, 4: padding, 5: has a bias, 6: weights, 9: ReLU
            kind, options = "Convolution", f"0={c_out} 1=3 4=1 5=1 6={weight.size} 9=1"
            data += [np.zeros(1, np.uint32).tobytes(), weight.tobytes(), bias.tobytes()]
        lines.append(f"{kind} layer{index} 1 1 {blob} blob{index} {options}")
        blob = f"blob{index}"
    lines[-1] = lines[-1].replace(f" {blob} ", " features ")
    header = ["7767517", f"{len(lines)} {len(lines)}"]
    (folder / "vgg19.bin").write_bytes(b"".join(data))
    (folder / "vgg19.param").write_text("\n".join(header + lines) + "\n")


def write_ncnn(folder, name):
    """What pnnx makes of a traced model, with 32-bit weights. Its blobs are called in0 and out0."""
    import pnnx
    import torch

    base = loaded(folder, name)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name}.pt"
        pnnx.export(base, str(path), torch.zeros(1, 3, 224, 224), fp16=False)
        for kind in ("bin", "param"):
            (folder / f"{name}.{kind}").write_bytes((Path(scratch) / f"{name}.ncnn.{kind}").read_bytes())


def loaded(folder, name):
    """A base with the weights of its file."""
    import torch

    tensors = {key: torch.from_numpy(value) for key, value in read_weights(folder, name).items()}
    if name == VGG:
        from torchvision.models.vgg import cfgs, make_layers

        base = torch.nn.Sequential()
        base.add_module("features", make_layers(cfgs["E"]))
        base.load_state_dict(tensors)
        return base.eval()
    from timm_bases import Base

    base = Base(name).fused()
    base.model.load_state_dict(tensors)
    return base.eval()


def write_onnx(folder, name):
    """VGG for pictures of any size, the others for any number of them."""
    import torch

    pictures, height, width = (torch.export.Dim.DYNAMIC for _ in range(3))
    example, dynamic = torch.zeros(2, 3, 224, 224), {0: pictures}
    if name == VGG:
        example, dynamic = torch.zeros(2, 3, 64, 96), {0: pictures, 2: height, 3: width}
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        loaded(folder, name),
        (example,),
        str(path.with_suffix(".part")),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=(dynamic,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    path.with_suffix(".part").rename(path)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in [VGG, *LAST_STAGE]:
        try:
            make(folder, name)
        except ImportError as error:
            print(f"{name}: not in every form: {error}", file=sys.stderr)


def make(folder, name):
    file = folder / f"{name}.safetensors"
    if not file.exists():
        # What other forms there are were made of other weights.
        for form in ("onnx", "param", "bin"):
            file.with_suffix(f".{form}").unlink(missing_ok=True)
        tensors = vgg_weights() if name == VGG else weights(name)
        save_file(tensors, file.with_suffix(".part"), metadata={"preprocess": "unit"})
        file.with_suffix(".part").rename(file)
    # The text comes last.
    if not file.with_suffix(".param").exists():
        if name == VGG:
            write_vgg_ncnn(folder, read_weights(folder))
        else:
            write_ncnn(folder, name)
    if not file.with_suffix(".onnx").exists():
        write_onnx(folder, name)


if __name__ == "__main__":
    main()
