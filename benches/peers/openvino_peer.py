"""OpenVINO's CPU plug-in, in f32, told the shape beforehand: asked for latency with the whole batch, or for throughput
with a picture in each request, whichever is faster."""

import os
import sys

import numpy as np
import openvino

from peer import THREADS, fastest, median_ms, parts_of, pixels, serve, shape_of

OPTIONS = {
    "INFERENCE_NUM_THREADS": THREADS,
    # Left alone, it would compute in bfloat16 on CPUs that can.
    "INFERENCE_PRECISION_HINT": "f32",
}


def prepare(work):
    name, rest = parts_of(work)
    pictures, side = shape_of(rest)
    path, images = os.path.join(sys.argv[1], f"{name}.onnx"), pixels(pictures, 3, side, side)
    ways = {"latency": at_once(path, images)}
    if pictures > 1:
        ways["throughput"] = side_by_side(path, images)
    step = fastest(ways)
    return lambda times: median_ms(step, times), step()


def compiled(path, images, hint):
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(images.shape))
    return core.compile_model(model, "CPU", OPTIONS | {"PERFORMANCE_HINT": hint})


def at_once(path, images):
    request = compiled(path, images, "LATENCY").create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))

    def step():
        request.infer()
        return request.get_output_tensor().data

    return step


def side_by_side(path, images):
    model = compiled(path, images[:1], "THROUGHPUT")
    requests = [model.create_infer_request() for _ in images]
    for request, image in zip(requests, images):
        request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(image[None])))

    def step():
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()
        return np.concatenate([request.get_output_tensor().data for request in requests])

    return step


serve(openvino.__version__.split("-")[0], prepare)
