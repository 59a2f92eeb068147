import numpy as np

from truepair.scoring.reference_pairs import reference_among, reference_candidates


def test_reference_pairs_are_of_different_images_and_mostly_match(trained):
    models, pairs = trained
    candidates = reference_candidates(pairs, np.random.default_rng(0))
    reference = reference_among(models, pairs, candidates)
    for chosen in (candidates, reference):
        images = pairs.image_of_caption[chosen]
        assert len(images.unique()) == len(images) > 100
    assert len(candidates) == len(pairs.image_of_caption.unique())
    assert set(reference.tolist()) < set(candidates.tolist())
    share = pairs.is_clean[reference].double().mean()
    assert share > pairs.is_clean[candidates].double().mean() + 0.1
