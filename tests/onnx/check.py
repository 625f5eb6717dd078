"""Runs exported classifiers in ONNX Runtime and OpenVINO and compares their probabilities with those it is told.

One JSON object a line comes in: `model`, a path; `pixels`, a path of raw numbers; `shape` and `type` of these;
`probabilities`, row by row. One goes out: the largest errors, `onnxruntime` and `openvino`, over all pictures at once and
the first alone.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import openvino


def onnxruntime_probabilities(path, batches):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [session.run(["probabilities"], {"pictures": batch})[0] for batch in batches]


def openvino_probabilities(path, batches):
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    model = core.compile_model(path, "CPU", hints)
    return [model({"pictures": batch})["probabilities"] for batch in batches]


def errors(job):
    onnx.checker.check_model(job["model"], full_check=True)
    pixels = np.fromfile(job["pixels"], job["type"]).reshape(job["shape"])
    wanted = np.array(job["probabilities"])
    batches, rows = [pixels, pixels[:1]], [wanted, wanted[:1]]
    engines = {"onnxruntime": onnxruntime_probabilities, "openvino": openvino_probabilities}
    found = {name: engine(job["model"], batches) for name, engine in engines.items()}
    for name, probabilities in found.items():
        assert [p.shape for p in probabilities] == [r.shape for r in rows], name
    # NaN is no small error.
    differences = {name: [np.abs(p - r).max() for p, r in zip(found[name], rows)] for name in found}
    return {name: float(np.max(both)) if np.isfinite(both).all() else 1e9 for name, both in differences.items()}


for line in sys.stdin:
    print(json.dumps(errors(json.loads(line))), flush=True)
