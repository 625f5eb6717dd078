"""Pillow, which decodes a large JPEG at an eighth of its size where that is asked for (`Image.draft`)."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from peer import LITE, THREADS, batches_of, rate_of, serve, side_of

PHOTOGRAPHS = Path(sys.argv[3])
SIDE = side_of(LITE)
# How many times the wanted size is decoded at least: the default of `Image.thumbnail`.
MARGIN = 2


def small(file):
    with Image.open(file) as picture:
        picture.draft("RGB", (MARGIN * SIDE, MARGIN * SIDE))
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def batches(part):
    """Pixels (N, 3, SIDE, SIDE) in 0 to 1, decoded ahead by as many threads as there are cores."""
    files = sorted((PHOTOGRAPHS / part).glob("*/*"))
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in batches_of(pool.map(small, files)):
            planes = np.stack(batch).transpose(0, 3, 1, 2)
            yield np.ascontiguousarray(planes, dtype=np.float32) / 255


def prepare(work):
    if work != "loader_photographs":
        raise ValueError(f"no work {work}")
    return rate_of(lambda: batches("train")), next(batches("validation"))


serve(PIL.__version__, prepare)
