"""Runs exported classifiers in ONNX Runtime and OpenVINO.

One JSON object a line comes in: `model`, a path; `pixels`, a path of raw numbers; `shape` and `type` of these; and
`probabilities`, row by row, of the classifier itself. One goes out. Its `onnxruntime` and `openvino` are the largest errors
over all pictures at once and the first alone. For a job with `time`, it is `probabilities`, ONNX Runtime's, and
`milliseconds`, what one picture takes on two threads (the median of fifty).
"""

import json
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime
import openvino


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnxruntime_probabilities(path, batches):
    session = session_of(path)
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


def timed(job):
    pixels = np.fromfile(job["pixels"], job["type"]).reshape(job["shape"])
    session, times = session_of(job["model"]), []
    for _ in range(55):
        start = time.perf_counter()
        session.run(None, {"pictures": pixels[:1]})
        times.append(time.perf_counter() - start)
    probabilities = np.concatenate([session.run(None, {"pictures": row[None]})[0] for row in pixels])
    return {"probabilities": probabilities.tolist(), "milliseconds": 1000 * statistics.median(times[5:])}


for line in sys.stdin:
    job = json.loads(line)
    print(json.dumps(timed(job) if job.get("time") else errors(job)), flush=True)
