"""Writes one VGG19 base with random weights in every form the peers read: safetensors, ONNX and ncnn."""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from peer import CONVOLUTIONS, POOL, layers


def weights():
    """He-normal weights and small biases under torchvision's names, so that no activation dies or grows."""
    rng = np.random.default_rng(1)
    tensors = {}
    for name, c_in, c_out in layers():
        scale = np.sqrt(2 / (9 * c_in))
        tensors[f"{name}.weight"] = rng.normal(0, scale, (c_out, c_in, 3, 3)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.01, c_out).astype(np.float32)
    return tensors


def write_ncnn(folder, tensors):
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
    (folder / "vgg19.param").write_text("\n".join(header + lines) + "\n")
    (folder / "vgg19.bin").write_bytes(b"".join(data))


def write_onnx(folder, tensors):
    import torch
    from torchvision.models.vgg import cfgs, make_layers

    model = torch.nn.Sequential()
    model.add_module("features", make_layers(cfgs["E"]))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    pictures, height, width = (torch.export.Dim.DYNAMIC for _ in range(3))
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, 64, 96),),
        str(folder / "vgg19.onnx"),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: pictures, 2: height, 3: width},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights()
    save_file(tensors, folder / "vgg19.safetensors", metadata={"preprocess": "unit"})
    write_ncnn(folder, tensors)
    try:
        write_onnx(folder, tensors)
    except ImportError as error:
        print(f"no ONNX model, so neither ONNX Runtime nor OpenVINO: {error}", file=sys.stderr)
        return
    (folder / "done").touch()


if __name__ == "__main__":
    main()
