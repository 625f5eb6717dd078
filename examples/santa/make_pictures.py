"""Remakes `pictures/`: emoji drawings of Santa, Mrs Claus and Mx Claus, and of other people.

    pip install pillow==13.0.0 resvg_py==0.5.0
    python examples/santa/make_pictures.py          # needs `npm`, which fetches the drawings

Each split has its own artists, so that validation and test ask what the classifier makes of a hand it has not seen,
and no drawing stands in two splits in different skin tones. Both classes have as many pictures, the same mix of skin
tones and the same mix of backgrounds, so that none of these gives the class away. ATTRIBUTION.md names the artists.
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import resvg_py
from PIL import Image

PICTURES = Path(__file__).parent / "pictures"
SIDE = 72
# Drawings that fill their square get a rim, as heads in photographs have.
MARGIN = 3
# The drawings are transparent, and a white beard on white is hardly there: they are laid on light plain colours.
BACKGROUNDS = ["#ffffff", "#dbe8f4", "#f3e6d2", "#dff0dc", "#e9e1f1", "#f6dfe2", "#e3e3e3"]

TONES = ["", "light", "medium-light", "medium", "medium-dark", "dark"]
SUFFIX = "-{}-skin-tone"
SHORT_SUFFIX = "-{}"


@dataclass(frozen=True)
class Drawings:
    """Which drawings are taken from one package."""

    name: str
    package: str
    split: str
    santa: list[str]
    not_santa: list[str]
    # How the package writes a skin tone; None where each drawing stands in the tone its artist gave it.
    tone_suffix: str | None = SUFFIX


# Not-Santas are the ones that are easily taken for him: white hair and beards, red clothes, hats and hoods.
DRAWINGS = [
    Drawings(
        name="noto",
        package="@iconify-json/noto@1.2.9",
        split="train",
        santa=["santa-claus", "mrs-claus", "mx-claus"],
        not_santa=[
            "old-man", "old-woman", "older-person", "bearded-person", "man-white-haired", "woman-white-haired",
            "man-mage", "woman-elf", "man-wearing-turban", "person-with-skullcap", "firefighter", "guard",
            "man-elf", "man-vampire", "baby", "woman-with-headscarf", "person-with-veil", "man-cook",
        ],
    ),
    Drawings(
        name="noto-v1",
        package="@iconify-json/noto-v1@1.2.5",
        split="train",
        santa=["santa-claus", "mrs-claus"],
        not_santa=[
            "baby-angel", "guard", "person-wearing-turban", "old-man", "man-with-chinese-cap", "old-woman",
            "woman-firefighter", "bride-with-veil", "man-singer", "woman-dancing", "woman-cook", "prince",
        ],
    ),
    Drawings(
        name="fluent",
        package="@iconify-json/fluent-emoji@1.2.7",
        split="train",
        santa=["santa-claus", "mrs-claus", "mx-claus"],
        not_santa=[
            "man-mage", "person-white-hair", "woman-firefighter", "old-woman", "person-with-skullcap", "old-man",
            "person-with-veil", "man-white-hair", "guard", "man-wearing-turban", "baby", "person-beard",
            "woman-white-hair", "prince", "man-superhero", "older-person", "man-cook", "man-red-hair",
        ],
        tone_suffix=SHORT_SUFFIX,
    ),
    Drawings(
        name="fluent-flat",
        package="@iconify-json/fluent-emoji-flat@1.2.6",
        split="train",
        santa=["santa-claus", "mrs-claus", "mx-claus"],
        not_santa=[
            "woman-white-hair", "old-man", "man-vampire", "man-beard", "person-white-hair", "woman-guard",
            "older-person", "woman-wearing-turban", "woman-dancing", "man-mage", "firefighter", "old-woman",
            "person-with-skullcap", "man-white-hair", "baby-angel", "woman-superhero", "woman-with-headscarf", "artist",
        ],
        tone_suffix=SHORT_SUFFIX,
    ),
    Drawings(
        name="emojitwo",
        package="@iconify-json/emojione@1.2.3",
        split="validation",
        santa=["santa-claus", "mrs-claus"],
        not_santa=[
            "old-man", "old-woman", "person-wearing-turban", "man-with-chinese-cap", "baby", "guard",
            "woman-dancing", "bride-with-veil", "construction-worker", "prince", "princess", "baby-angel",
        ],
    ),
    Drawings(
        name="fxemoji",
        package="@iconify-json/fxemoji@1.2.2",
        split="validation",
        santa=["fatherchristmas"],
        not_santa=["turban"],
        tone_suffix=None,
    ),
    Drawings(
        name="streamline",
        package="@iconify-json/streamline-emojis@1.2.4",
        split="validation",
        santa=["santa-claus-1", "santa-claus-2"],
        not_santa=["person-wearing-turban-1", "man-firefighter-2"],
        tone_suffix=None,
    ),
    Drawings(
        name="twemoji",
        package="@iconify-json/twemoji@1.2.5",
        split="test",
        santa=["santa-claus", "mrs-claus", "mx-claus"],
        not_santa=[
            "old-man", "old-woman", "older-person", "bearded-person", "man-white-haired", "woman-white-haired",
            "man-mage", "woman-elf", "man-wearing-turban", "person-with-skullcap", "firefighter", "guard",
            "superhero", "vampire", "baby", "woman-with-headscarf", "cook", "prince",
        ],
    ),
]


def fetch(package: str, folder: str) -> dict:
    """The icons of a package, by name."""
    run = ["npm", "pack", "--silent", "--pack-destination", folder, package]
    archive = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    with tarfile.open(Path(folder) / archive) as files:
        return json.load(files.extractfile("package/icons.json"))


def svg_of(icons: dict, name: str) -> str:
    """The drawing called `name`, or the one it is another name of."""
    while name in icons.get("aliases", {}):
        alias = icons["aliases"][name]
        assert set(alias) == {"parent"}, f"{name} is a turned copy of {alias['parent']}"
        name = alias["parent"]
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default)) for key, default in [("left", 0), ("top", 0), ("width", 16), ("height", 16)]
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def picture_of(svg: str, background: str) -> Image.Image:
    """The drawing on a plain background."""
    side = SIDE - 2 * MARGIN
    drawing = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))))
    assert drawing.size == (side, side), f"a drawing came out as {drawing.size}"
    picture = Image.new("RGBA", (SIDE, SIDE), background)
    picture.alpha_composite(drawing.convert("RGBA"), (MARGIN, MARGIN))
    return picture.convert("RGB")


def santas(drawings: Drawings) -> list[tuple[str, str]]:
    """(figure, tone): there are few drawings of Santa, so each is taken in every tone."""
    tones = TONES if drawings.tone_suffix else [""]
    return [(figure, tone) for figure in drawings.santa for tone in tones]


def others(drawings: Drawings) -> list[tuple[str, str]]:
    """(figure, tone): there are many other people, so each is taken in one tone, and the tones take turns."""
    tones = TONES if drawings.tone_suffix else [""]
    return [(figure, tones[turn % len(tones)]) for turn, figure in enumerate(drawings.not_santa)]


def make() -> None:
    """Writes `pictures/<split>/<class>/<set>-<figure>-<tone>.png`."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    made: dict[Path, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for drawings in DRAWINGS:
            icons = fetch(drawings.package, folder)
            for kind, figures in [("santa", santas(drawings)), ("not_santa", others(drawings))]:
                into = PICTURES / drawings.split / kind
                into.mkdir(parents=True, exist_ok=True)
                for figure, tone in figures:
                    name = figure + (drawings.tone_suffix.format(tone) if tone else "")
                    # Seven backgrounds against six tones: the two fall in every combination.
                    turn = made[into] = made.get(into, -1) + 1
                    picture = picture_of(svg_of(icons, name), BACKGROUNDS[turn % len(BACKGROUNDS)])
                    file = "-".join(part for part in [drawings.name, figure, tone] if part)
                    picture.save(into / f"{file}.png", optimize=True)


def check() -> None:
    """Every picture decodes and is there once; classes are balanced; the whole stays small."""
    seen: dict[str, Path] = {}
    counts: dict[tuple[str, str], int] = {}
    for file in sorted(PICTURES.rglob("*.png")):
        with Image.open(file) as picture:
            picture.load()
            assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB"), file
            pixels = sha256(picture.tobytes()).hexdigest()
        assert pixels not in seen, f"{file} and {seen[pixels]} are the same picture"
        seen[pixels] = file
        split, kind = file.parts[-3:-1]
        counts[split, kind] = counts.get((split, kind), 0) + 1
    for split in ["train", "validation", "test"]:
        assert counts[split, "santa"] == counts[split, "not_santa"], split
        print(f"{split}: {counts[split, 'santa']} santa, {counts[split, 'not_santa']} not_santa")
    size = sum(file.stat().st_size for file in seen.values())
    assert size < 2_000_000
    print(f"{len(seen)} pictures, {size} bytes")


if __name__ == "__main__":
    make()
    check()
