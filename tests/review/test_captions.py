import numpy as np

from truepair.review.captions import MOST, CaptionsOfImages


def test_the_other_captions_of_an_image_are_shown_best_first():
    random = np.random.default_rng(0)
    image, probability = random.integers(0, 20, 200), random.random(200).astype(np.float32)
    captions = CaptionsOfImages(image, probability)
    assert captions.are_several
    for row in range(200):
        others = [other for other in range(200) if image[other] == image[row] and other != row]
        assert captions.beside(row) == sorted(others, key=lambda other: probability[other])[:MOST]


def test_images_of_one_caption_each_have_no_others():
    captions = CaptionsOfImages(np.arange(5)[::-1].copy(), np.full(5, np.nan, np.float32))
    assert not captions.are_several
    assert [captions.beside(row) for row in range(5)] == [[]] * 5


def test_captions_of_unknown_probability_are_shown_last():
    assert CaptionsOfImages(np.zeros(3, int), np.array([0.5, np.nan, 0.9], np.float32)).beside(0) == [2, 1]
