"""ncnn with its defaults (Winograd convolutions), in f32, one picture after the other: it knows no batches."""

import os
import sys

import ncnn
import numpy as np

from peer import THREADS, median_ms, pixels, serve, shape_of


def prepare(work):
    pictures, side = shape_of(work)
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    net.opt.use_bf16_storage = False
    for load, name in [(net.load_param, "vgg19.param"), (net.load_model, "vgg19.bin")]:
        if load(os.path.join(sys.argv[1], name)) != 0:
            raise ValueError(f"{name} cannot be read")
    # Cloned, because a Mat of an array borrows its memory.
    images = [ncnn.Mat(picture).clone() for picture in pixels(pictures, 3, side, side)]

    def step():
        features = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("images", image)
            features.append(extractor.extract("features")[1])
        return features

    return lambda times: median_ms(step, times), np.stack([np.array(feature) for feature in step()])


serve(ncnn.__version__, prepare)
