"""Writes files like a telephone's photographs of 12 megapixels, of which the repository has none: pictures enlarged, with
a sensor's noise, so that the files are as long as those of photographs (3 MB). A folder that is there already stays; remove
it to make them anew.

    make_photographs.py DATA OUT
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

# Of each class.
COUNTS = {"train": 60, "validation": 10}
LONG, SHORT = 4000, 3000
# Standard deviation in grey levels.
NOISE = 4
QUALITY, SUBSAMPLING = 95, "4:2:0"


def photograph(path, noise):
    picture = Image.open(path).convert("RGB")
    size = (LONG, SHORT) if picture.width >= picture.height else (SHORT, LONG)
    levels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    height, width, _ = levels.shape
    return Image.fromarray((levels + noise[:height, :width]).clip(0, 255).astype(np.uint8))


def main(data, out):
    if out.exists():
        return
    # Under its name only when it is whole.
    unfinished = out.with_name(f"{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(1)
    noise = (NOISE * rng.standard_normal((LONG, LONG, 3), dtype=np.float32)).round().astype(np.int8)
    for part, count in COUNTS.items():
        for folder in sorted(path for path in (data / part).iterdir() if path.is_dir()):
            to = unfinished / part / folder.name
            to.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                file = to / f"{path.stem}.jpg"
                photograph(path, noise).save(file, quality=QUALITY, subsampling=SUBSAMPLING)
    unfinished.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
