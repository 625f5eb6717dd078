"""Keras on TensorFlow: the compiled model, `train_on_batch`, and the notebook's recipe word for word."""

import os
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from peer import BATCH, HIDDEN, RATE, SIDE, THREADS, labels, layers, mean_ms, median_ms, pixels, read_weights, serve, shape_of

DATA = sys.argv[2]


def base(side):
    model = keras.applications.VGG19(weights=None, include_top=False, input_shape=(side, side, 3))
    tensors = read_weights(sys.argv[1])
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, (name, _, _) in zip(convolutions, layers(), strict=True):
        layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 1, 0), tensors[f"{name}.bias"]])
    return model


def channels_last(*shape):
    return np.ascontiguousarray(pixels(*shape).transpose(0, 2, 3, 1))


def forward(pictures, side):
    model, images = base(side), tf.constant(channels_last(pictures, 3, side, side))
    compiled = tf.function(lambda images: model(images, training=False))
    step = lambda: compiled(images).numpy()
    return lambda times: median_ms(step, times), step()


def classifier(opened):
    conv_base = base(SIDE)
    for layer in conv_base.layers:
        layer.trainable = opened == "all" or layer.name.startswith(opened)
    head = [keras.layers.Flatten(), keras.layers.Dense(HIDDEN, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([conv_base, *head])
    model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.RMSprop(RATE), metrics=["acc"])
    return model


def train_step(opened):
    model = classifier(opened)
    images, wanted = channels_last(BATCH, 3, SIDE, SIDE), labels()
    return lambda times: mean_ms(lambda: model.train_on_batch(images, wanted), times), None


def flow(part, augment):
    changes = dict(
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    generator = ImageDataGenerator(rescale=1.0 / 255, **(changes if augment else {}))
    return generator.flow_from_directory(
        os.path.join(DATA, part), target_size=(SIDE, SIDE), batch_size=BATCH, class_mode="binary"
    )


def epoch(opened):
    model, train, validation = classifier(opened), flow("train", True), flow("validation", False)
    step = lambda: model.fit(train, epochs=1, validation_data=validation, verbose=0)
    # The graph is traced here, once; ten epochs of the notebook would spread that cost.
    step()

    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            step()
        return 1000 * (time.perf_counter() - start) / times

    return run, None


def ten_epochs():
    """The notebook's ten epochs on a frozen base, from the files on; Keras keeps nothing from epoch to epoch."""

    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            model = classifier("frozen")
            model.fit(flow("train", True), epochs=10, validation_data=flow("validation", False), verbose=0)
        return 1000 * (time.perf_counter() - start) / times

    return run, None


def loader():
    train = flow("train", True)

    def run(times):
        start, pictures = time.perf_counter(), 0
        for _ in range(times):
            for index in range(len(train)):
                images, _ = train[index]
                pictures += len(images)
            train.on_epoch_end()
        return pictures / (time.perf_counter() - start)

    run(1)
    return run, None


def prepare(work):
    if shape := shape_of(work):
        return forward(*shape)
    if work == "loader":
        return loader()
    if work == "ten_epochs_cached":
        return ten_epochs()
    kind, opened = work.split("_")
    return {"step": train_step, "epoch": epoch}[kind](opened)


tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)
serve(f"{keras.__version__} on TensorFlow {tf.__version__}", prepare)
