"""ncnn with its defaults (Winograd convolutions), in f32, one picture after the other: it knows no batches."""

import os
import sys

import ncnn
import numpy as np

from peer import THREADS, VGG, median_ms, parts_of, pixels, serve, shape_of


def prepare(work):
    name, rest = parts_of(work)
    pictures, side = shape_of(rest)
    # As pnnx names them; VGG's were not its work.
    first, last = ("images", "features") if name == VGG else ("in0", "out0")
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    net.opt.use_bf16_storage = False
    for load, file in [(net.load_param, f"{name}.param"), (net.load_model, f"{name}.bin")]:
        if load(os.path.join(sys.argv[1], file)) != 0:
            raise ValueError(f"{file} cannot be read")
    # Cloned, because a Mat of an array borrows its memory.
    images = [ncnn.Mat(picture).clone() for picture in pixels(pictures, 3, side, side)]

    def step():
        features = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input(first, image)
            features.append(extractor.extract(last)[1])
        return features

    return lambda times: median_ms(step, times), np.stack([np.array(feature) for feature in step()])


serve(ncnn.__version__, prepare)
