"""Images and captions in one space, of which single captions, or all captions of an image, are another image's."""

import numpy as np
import torch

from truepair.data.features import Features
from truepair.data.pairs import Pairs

RATE = 0.4


def moved_captions(images, each, moved, seed=0, *, rate=RATE, view=0):
    """Vectors of captions near those of their true images, `each` an image; "captions" moved one by one, or "images".

    Another `view` has the same pairs, the same of them mismatched, and other vectors of each.
    """
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(images, 16))
    image_of_caption = np.repeat(np.arange(images), each)
    if moved == "captions":
        is_moved = generator.random(images * each) < rate
        origin = (image_of_caption + generator.integers(1, images, images * each)) % images
    else:
        is_moved = (generator.random(images) < rate)[image_of_caption]
        origin = (image_of_caption + 1) % images
    origin = np.where(is_moved, origin, image_of_caption)
    of_view = generator if view == 0 else np.random.default_rng((seed, view))

    def near(rows, noise):
        values = rows + noise * of_view.normal(size=rows.shape)
        return Features((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32))

    return Pairs(
        images=near(truth, 1.5),
        captions=[f"words {caption}" for caption in range(images * each)],
        image_of_caption=torch.from_numpy(image_of_caption),
        image_ids=[f"image {image}" for image in range(images)],
        caption_ids=[f"caption {caption}" for caption in range(images * each)],
        caption_inputs=near(truth[origin], 0.7),
        true_image_of_caption=torch.from_numpy(origin),
    )
