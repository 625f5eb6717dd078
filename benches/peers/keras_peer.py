"""Keras on TensorFlow: the compiled model, `train_on_batch`, and the notebook's recipe word for word."""

import os
import re
import sys

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications import efficientnet
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from peer import (
    BATCH,
    HIDDEN,
    LITE,
    RATE,
    THREADS,
    VGG,
    labels,
    layers,
    mean_ms,
    median_ms,
    parts_of,
    pixels,
    rate_of,
    read_weights,
    serve,
    shape_of,
    side_of,
    total_ms,
)

DATA, PHOTOGRAPHS = sys.argv[2:4]
# What the names of the layers in Lite's last stage begin with.
LITE_LAST_STAGE = ("block7", "top_")


def base(name):
    return {VGG: vgg, LITE: lite}[name](side_of(name))


def vgg(side):
    model = keras.applications.VGG19(weights=None, include_top=False, input_shape=(side, side, 3))
    tensors = read_weights(sys.argv[1])
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, (name, _, _) in zip(convolutions, layers(), strict=True):
        layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 1, 0), tensors[f"{name}.bias"]])
    return model


def lite(side):
    """EfficientNet-Lite0: Keras's EfficientNetB0 without squeeze-and-excite and with ReLU6. It divides pixels by 255."""
    rows = [{**row, "se_ratio": 0.0} for row in efficientnet.DEFAULT_BLOCKS_ARGS]
    model = efficientnet.EfficientNet(
        1.0,
        1.0,
        224,
        drop_connect_rate=0.0,
        activation="relu6",
        blocks_args=rows,
        include_top=False,
        weights=None,
        input_shape=(side, side, 3),
    )
    tensors = read_weights(sys.argv[1], LITE)
    for layer in model.layers:
        name = timm_name(layer.name)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 1, 0)])
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    return model


def timm_name(name):
    """What timm calls a layer of EfficientNet: `block2b_expand_conv` is `blocks.1.1.conv_pw`."""
    ends = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
    match = re.fullmatch(r"block(\d)([a-z])_(\w+)", name)
    if match is None:
        return ends.get(name, name)
    block, place, part = match.groups()
    parts = ["expand_conv", "expand_bn", "dwconv", "bn", "project_conv", "project_bn"]
    names = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    # The first block does not expand.
    if block == "1":
        parts, names = parts[2:], ["conv_dw", "bn1", "conv_pw", "bn2"]
    return f"blocks.{int(block) - 1}.{ord(place) - ord('a')}.{dict(zip(parts, names)).get(part, part)}"


def channels_last(*shape):
    return np.ascontiguousarray(pixels(*shape).transpose(0, 2, 3, 1))


def forward(pictures, side):
    model, images = vgg(side), tf.constant(channels_last(pictures, 3, side, side))
    compiled = tf.function(lambda images: model(images, training=False))
    step = lambda: compiled(images).numpy()
    return lambda times: median_ms(step, times), channels_first(step())


def channels_first(features):
    return features.transpose(0, 3, 1, 2)


def classifier(name, opened):
    conv_base = base(name)
    prefixes = LITE_LAST_STAGE if opened == "last" else opened
    for layer in conv_base.layers:
        layer.trainable = opened == "all" or layer.name.startswith(prefixes)
    images = keras.Input(conv_base.input_shape[1:])
    # Batch norms with the statistics they have, trainable or not.
    features = keras.layers.Flatten()(conv_base(images, training=False))
    hidden = keras.layers.Dense(HIDDEN, activation="relu")(features)
    model = keras.Model(images, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.RMSprop(RATE), metrics=["acc"])
    return model


def train_step(opened):
    model, side = classifier(VGG, opened), side_of(VGG)
    images, wanted = channels_last(BATCH, 3, side, side), labels()
    return lambda times: mean_ms(lambda: model.train_on_batch(images, wanted), times), None


def flow(part, augment, name=VGG):
    changes = dict(
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    rescale = None if name == LITE else 1.0 / 255
    generator, side = ImageDataGenerator(rescale=rescale, **(changes if augment else {})), side_of(name)
    return generator.flow_from_directory(
        os.path.join(DATA, part), target_size=(side, side), batch_size=BATCH, class_mode="binary"
    )


def epoch(name, opened):
    model, train, validation = classifier(name, opened), flow("train", True, name), flow("validation", False, name)
    step = lambda: model.fit(train, epochs=1, validation_data=validation, verbose=0)
    # The graph is traced here, once; ten epochs of the notebook would spread that cost.
    step()
    return lambda times: total_ms(step, times) / times, None if name == VGG else epoch_features(name)


def epoch_features(name):
    """What says that the epochs are of the same base; VGG's are compared elsewhere."""
    side = side_of(name)
    return channels_first(base(name).predict(255 * channels_last(2, 3, side, side), verbose=0))


def ten_epochs():
    """The notebook's ten epochs on a frozen base, from the files on; Keras keeps nothing from epoch to epoch."""

    def step():
        model = classifier(VGG, "frozen")
        model.fit(flow("train", True), epochs=10, validation_data=flow("validation", False), verbose=0)

    return lambda times: total_ms(step, times) / times, None


def loader():
    train = flow("train", True)

    def epoch():
        for index in range(len(train)):
            yield train[index][0]
        train.on_epoch_end()

    return rate_of(epoch), None


def photographs(part, shuffle=False):
    """Keras's way of today, which decodes ahead on all threads; its resizing has no filter against aliasing."""
    folder, side = os.path.join(PHOTOGRAPHS, part), side_of(LITE)
    return keras.utils.image_dataset_from_directory(
        folder, label_mode="binary", image_size=(side, side), batch_size=BATCH, shuffle=shuffle, verbose=False
    ).prefetch(2)


def loader_of_photographs():
    train = photographs("train", shuffle=True)
    return rate_of(lambda: (images for images, _ in train)), None


def epoch_of_photographs(name):
    model, train, validation = classifier(name, "frozen"), photographs("train", shuffle=True), photographs("validation")
    step = lambda: model.fit(train, epochs=1, validation_data=validation, verbose=0)
    # The graph is traced here, once.
    step()
    return lambda times: total_ms(step, times) / times, epoch_features(name)


def prepare(work):
    name, rest = parts_of(work)
    if shape := shape_of(rest):
        return forward(*shape)
    if rest == "loader":
        return loader()
    if work == "loader_photographs":
        return loader_of_photographs()
    if rest == "epoch_photographs":
        return epoch_of_photographs(name)
    if rest == "ten_epochs_cached":
        return ten_epochs()
    kind, opened = rest.split("_")
    return train_step(opened) if kind == "step" else epoch(name, opened)


tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)
serve(f"{keras.__version__} on TensorFlow {tf.__version__}", prepare)
