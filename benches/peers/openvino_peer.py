"""OpenVINO's CPU plug-in, in f32, told the shape beforehand and asked for latency."""

import os
import sys

import openvino

from peer import THREADS, median_ms, pixels, serve, shape_of

OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": THREADS,
    # Left alone, it would compute in bfloat16 on CPUs that can.
    "INFERENCE_PRECISION_HINT": "f32",
}


def prepare(work):
    pictures, side = shape_of(work)
    core = openvino.Core()
    model = core.read_model(os.path.join(sys.argv[1], "vgg19.onnx"))
    model.reshape([pictures, 3, side, side])
    request = core.compile_model(model, "CPU", OPTIONS).create_infer_request()
    request.set_input_tensor(openvino.Tensor(pixels(pictures, 3, side, side)))
    step = request.infer
    step()
    return lambda times: median_ms(step, times), request.get_output_tensor().data


serve(openvino.__version__.split("-")[0], prepare)
