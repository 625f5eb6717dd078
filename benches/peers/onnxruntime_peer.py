"""ONNX Runtime's CPU provider, told the shape beforehand."""

import os
import sys

import onnx
import onnxruntime

from peer import THREADS, median_ms, parts_of, pixels, serve, shape_of


def prepare(work):
    name, rest = parts_of(work)
    pictures, side = shape_of(rest)
    path = os.path.join(sys.argv[1], f"{name}.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = onnx.load(path, load_external_data=False)
    names = [dimension.dim_param for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    for name, size in zip(names, (pictures, 3, side, side)):
        if name:
            options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"images": pixels(pictures, 3, side, side)}
    step = lambda: session.run(None, feed)[0]
    return lambda times: median_ms(step, times), step()


serve(onnxruntime.__version__, prepare)
