"""A table of small pictures whose captions name what they show, for encoders that read pixels and tokens."""

import numpy as np
from made_sources import write_rows
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
ANIMALS = ("dog", "cat", "bird")


def write_photographs(folder, images=18, first=0):
    """A table with two captions a picture and a split; one colour a picture, and a stripe where the animal says.

    Pictures are named by their numbers, from `first` on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + images):
        colour, animal = [*COLOURS][number % 3], ANIMALS[number // 3 % 3]
        values = np.full((40, 48, 3), COLOURS[colour], np.uint8)
        place = 12 * ANIMALS.index(animal)
        values[place : place + 10] = np.random.default_rng(number).integers(0, 256, 3)
        Image.fromarray(values).save(folder / f"{number}.png")
        left = first + images - number
        split = "train" if left > 8 else "dev" if left > 4 else "test"
        for caption in (f"a {colour} {animal}", f"it is a {animal} and it is {colour}"):
            rows.append({"image": f"{number}.png", "caption": caption, "split": split})
    return write_rows(folder / "photographs.csv", rows)
