import math

import pytest
import torch

from truepair.errors import DataError
from truepair.evaluation import recall
from truepair.evaluation.recall import (
    RankCounts,
    Ranks,
    first_nan,
    fold_slices,
    mean_metrics,
    ranks,
    recall_at,
    retrieval_metrics,
)


def ranks_by_loops(similarity, image_of_caption):
    """From the definition: sort out the wrong items one by one."""
    scores, owner = similarity.tolist(), image_of_caption.tolist()
    images, captions = similarity.shape
    image_to_text = []
    for image in range(images):
        own = [scores[image][c] for c in range(captions) if owner[c] == image]
        if own:
            wrong = [scores[image][c] for c in range(captions) if owner[c] != image]
            image_to_text.append(1 + sum(score >= max(own) for score in wrong))
    text_to_image = []
    for caption in range(captions):
        own_score = scores[owner[caption]][caption]
        wrong = [scores[i][caption] for i in range(images) if i != owner[caption]]
        text_to_image.append(1 + sum(score >= own_score for score in wrong))
    return image_to_text, text_to_image


def as_lists(result):
    return result.image_to_text.tolist(), result.text_to_image.tolist()


def uneven_world(seed, images=23, captions=61):
    """Captions in any order, different numbers of them per image, and scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    image_of_caption = torch.randint(images - 3, (captions,), generator=generator)  # the last images have none
    similarity = torch.randint(-6, 7, (images, captions), generator=generator) / 4
    return similarity, image_of_caption


def own_scores(similarity, image_of_caption):
    return similarity[image_of_caption, torch.arange(len(image_of_caption))]


def counted(similarity, image_of_caption, rows, columns, seed=0):
    """Counts of rectangles in any order, their captions in any order."""
    generator = torch.Generator().manual_seed(seed)
    images, captions = similarity.shape
    counts = RankCounts(image_of_caption, own_scores(similarity, image_of_caption), images)
    groups = torch.randperm(captions, generator=generator).split(columns)
    rectangles = [(start, group) for start in range(0, images, rows) for group in groups]
    for place in torch.randperm(len(rectangles), generator=generator).tolist():
        start, group = rectangles[place]
        counts.add(similarity[start : start + rows, group], start, group)
    return counts


def metrics_of(similarity, image_of_caption):
    return retrieval_metrics(ranks(similarity, image_of_caption))


def test_two_images_and_four_captions_by_hand():
    similarity = torch.tensor([[0.2, 0.7, 0.6, 0.9], [0.1, 0.8, 0.5, 0.3]])
    # Image 0 owns captions 0 and 1: its best scores 0.7, behind caption 3. Image 1 owns 2 and 3: its best scores
    # 0.5, behind caption 1. Caption 0 finds its image; captions 1, 2 and 3 prefer the other one.
    result = ranks(similarity, torch.tensor([0, 0, 1, 1]))
    assert as_lists(result) == ([2, 2], [1, 2, 2, 2])
    metrics = retrieval_metrics(result)
    assert (metrics.image_to_text_r1, metrics.image_to_text_r5) == (0.0, 100.0)
    assert (metrics.text_to_image_r1, metrics.text_to_image_r5) == (25.0, 100.0)
    assert (metrics.text_to_image_median_rank, metrics.text_to_image_mean_rank) == (2.0, 1.75)
    assert metrics.rsum == 425.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_loops_for_uneven_captions_in_any_order_with_ties(seed, dtype):
    similarity, image_of_caption = uneven_world(seed)
    assert as_lists(ranks(similarity.to(dtype), image_of_caption)) == ranks_by_loops(similarity, image_of_caption)


@pytest.mark.parametrize("scores_at_a_time", [1, 130, 2**18])
@pytest.mark.parametrize("columns", [1, 9, 61])
@pytest.mark.parametrize("rows", [1, 4, 22, 23, 100])
def test_rectangles_in_any_order_equal_the_whole(rows, columns, scores_at_a_time, monkeypatch):
    similarity, image_of_caption = uneven_world(seed=5)
    whole = as_lists(ranks(similarity, image_of_caption))
    monkeypatch.setattr(recall, "_SCORES_AT_A_TIME", scores_at_a_time)
    assert as_lists(counted(similarity, image_of_caption, rows, columns).ranks()) == whole


@pytest.mark.parametrize("last_bit", [-1e-7, 1e-7])
def test_own_entries_are_excluded_by_place_even_if_the_own_score_was_computed_otherwise(last_bit):
    similarity = torch.eye(6) * 0.5 + torch.arange(36).view(6, 6) / 100
    image_of_caption = torch.arange(6)
    counts = RankCounts(image_of_caption, similarity.diagonal() + last_bit, 6)
    for start, rows in zip((0, 2, 4), similarity.split(2), strict=True):
        counts.add(rows, start, image_of_caption)
    assert as_lists(counts.ranks()) == ranks_by_loops(similarity, image_of_caption)


def test_other_own_captions_never_count_against_an_image():
    similarity = torch.tensor([[0.9, 0.9, 0.9, 0.1], [0.0, 0.0, 0.0, 0.2]])
    assert ranks(similarity, torch.tensor([0, 0, 0, 1])).image_to_text.tolist() == [1, 1]


def test_a_tie_with_a_wrong_item_ranks_before_the_true_one():
    similarity = torch.tensor([[0.5, 0.5], [0.5, 0.6]])
    assert as_lists(ranks(similarity, torch.tensor([0, 1]))) == ([2, 1], [2, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, math.inf, -math.inf])
def test_a_constant_matrix_finds_nothing(value):
    image_of_caption = torch.arange(20).repeat_interleave(5)
    result = ranks(torch.full((20, 100), value), image_of_caption)
    assert result.image_to_text.tolist() == [96] * 20
    assert result.text_to_image.tolist() == [20] * 100
    assert retrieval_metrics(result).rsum == 0.0


def test_infinities_of_both_signs_are_ordered_and_not_taken_for_nan():
    similarity = torch.tensor([[math.inf, 0.0], [-math.inf, -math.inf]])
    assert as_lists(ranks(similarity, torch.tensor([0, 1]))) == ([1, 2], [1, 2])


def test_nan_is_refused_with_its_count_and_first_place():
    similarity = torch.zeros(4, 3)
    similarity[2, 1] = similarity[3, 0] = math.nan
    with pytest.raises(DataError, match=r"NaN in 2 of 12 scores, first in row 2, caption 1"):
        ranks(similarity, torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match=r"own images: NaN in 1 of 3"):
        RankCounts(torch.tensor([0, 1, 2]), torch.tensor([0.0, math.nan, 0.0]), 4)


def test_nan_in_a_rectangle_is_refused_by_its_place_in_the_whole_and_what_was_counted_stays():
    similarity, image_of_caption = uneven_world(seed=2)
    counts = RankCounts(image_of_caption, own_scores(similarity, image_of_caption), len(similarity))
    counts.add(similarity, 0, torch.arange(61))
    before = as_lists(counts.ranks())
    broken = torch.zeros(3, 2)
    broken[1, 1] = math.nan
    with pytest.raises(DataError, match=r"NaN in 1 of 6 scores, first in row 8, caption 44"):
        counts.add(broken, 7, torch.tensor([50, 44]))
    assert as_lists(counts.ranks()) == before


def test_infinities_that_cancel_are_not_taken_for_nan():
    assert first_nan(torch.tensor([[math.inf, -math.inf]])) is None
    assert first_nan(torch.tensor([[math.inf, -math.inf], [0.0, math.nan]])) == (1, 1)


def test_permuting_images_and_captions_changes_nothing():
    similarity, image_of_caption = uneven_world(seed=6)
    generator = torch.Generator().manual_seed(1)
    new_images = torch.randperm(len(similarity), generator=generator)
    new_captions = torch.randperm(len(image_of_caption), generator=generator)
    permuted = ranks(similarity[new_images][:, new_captions], new_images.argsort()[image_of_caption[new_captions]])
    original = ranks(similarity, image_of_caption)
    assert torch.equal(permuted.text_to_image, original.text_to_image[new_captions])
    assert torch.equal(permuted.image_to_text.sort().values, original.image_to_text.sort().values)


def test_adding_a_constant_and_gradients_change_nothing():
    similarity, image_of_caption = uneven_world(seed=7)
    expected = as_lists(ranks(similarity, image_of_caption))
    assert as_lists(ranks((similarity + 8).requires_grad_(), image_of_caption.int())) == expected


def test_recall_is_monotone_in_k_and_reaches_100_at_the_size_of_the_gallery():
    similarity, image_of_caption = uneven_world(seed=8)
    result = ranks(similarity, image_of_caption)
    for rank, gallery in ((result.image_to_text, len(image_of_caption)), (result.text_to_image, len(similarity))):
        recalls = [recall_at(rank, k) for k in range(gallery + 1)]
        assert recalls == sorted(recalls)
        assert recalls[0] == 0.0
        assert recalls[-1] == 100.0


def test_an_image_without_captions_is_a_distractor_and_has_no_rank():
    similarity = torch.tensor([[0.5, 0.1], [0.9, 0.9], [0.0, 0.4]])
    assert as_lists(ranks(similarity, torch.tensor([0, 2]))) == ([1, 1], [2, 2])


def test_both_feature_layouts_have_the_same_recalls():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(8, 40, generator=generator)
    image_of_caption = torch.arange(8).repeat_interleave(5)
    repeated = similarity.repeat_interleave(5, dim=0)  # one feature row a caption; rows 0, 5, 10 … are the images
    assert metrics_of(repeated[::5], image_of_caption) == metrics_of(similarity, image_of_caption)


def test_a_perfect_matrix_has_rsum_600_and_a_random_one_of_flickr30k_size_is_at_chance():
    image_of_caption = torch.arange(1000).repeat_interleave(5)
    perfect = torch.zeros(1000, 5000)
    perfect[image_of_caption, torch.arange(5000)] = 1
    assert metrics_of(perfect, image_of_caption).rsum == 600.0

    metrics = metrics_of(torch.rand(1000, 5000, generator=torch.Generator().manual_seed(0)), image_of_caption)
    # An image hits with any of 5 captions among the first K of 5,000, a caption with 1 of 1,000 images.
    assert metrics.image_to_text_r1 == pytest.approx(0.1, abs=0.25)
    assert metrics.text_to_image_r1 == pytest.approx(0.1, abs=0.1)
    assert metrics.image_to_text_r10 == pytest.approx(1.0, abs=0.6)
    assert metrics.text_to_image_r10 == pytest.approx(1.0, abs=0.4)
    assert metrics.text_to_image_mean_rank == pytest.approx(500.5, abs=15)


def test_the_mean_of_five_folds_is_that_of_five_separate_evaluations():
    generator = torch.Generator().manual_seed(3)
    image_of_caption = torch.arange(40).repeat_interleave(5)
    similarity = torch.rand(40, 200, generator=generator)
    separate = [
        metrics_of(similarity[8 * f : 8 * f + 8, 40 * f : 40 * f + 40], torch.arange(8).repeat_interleave(5))
        for f in range(5)
    ]
    counts = RankCounts(image_of_caption, own_scores(similarity, image_of_caption), 40)
    folds = fold_slices(40, 5)
    for fold in folds:
        captions = torch.arange(5 * fold.start, 5 * fold.stop)
        counts.add(similarity[fold, captions], fold.start, captions)
    assert [retrieval_metrics(counts.ranks(fold)) for fold in folds] == separate
    mean = mean_metrics(separate)
    assert mean.image_to_text_r1 == pytest.approx(sum(m.image_to_text_r1 for m in separate) / 5)
    assert mean.text_to_image_mean_rank == pytest.approx(sum(m.text_to_image_mean_rank for m in separate) / 5)
    six = [getattr(mean, f"{d}_r{k}") for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert mean.rsum == pytest.approx(sum(six))
    assert mean.rsum == pytest.approx(sum(m.rsum for m in separate) / 5)


def test_ranks_of_a_run_of_images_are_those_of_its_images_and_their_captions_wherever_they_stand():
    similarity, image_of_caption = uneven_world(seed=4)
    counts = counted(similarity, image_of_caption, 23, 61)
    all_ranks = counts.ranks()
    captioned = image_of_caption.unique()
    run = counts.ranks(slice(5, 12))
    assert run.image_to_text.tolist() == all_ranks.image_to_text[(captioned >= 5) & (captioned < 12)].tolist()
    inside = (image_of_caption >= 5) & (image_of_caption < 12)
    assert run.text_to_image.tolist() == all_ranks.text_to_image[inside].tolist()


def test_metrics_of_the_mean_matrix_are_not_the_mean_of_the_metrics():
    image_of_caption = torch.tensor([0, 1])
    certain_of_first = torch.tensor([[0.9, 0.1], [0.5, 0.4]])  # image 0 right by far, image 1 wrong by a little
    certain_of_second = torch.tensor([[0.4, 0.5], [0.1, 0.9]])
    together = metrics_of((certain_of_first + certain_of_second) / 2, image_of_caption)
    separately = mean_metrics([metrics_of(s, image_of_caption) for s in (certain_of_first, certain_of_second)])
    assert together.image_to_text_r1 == 100.0
    assert separately.image_to_text_r1 == 50.0


def test_median_rank_of_an_even_count_is_between_the_middle_two():
    metrics = retrieval_metrics(Ranks(image_to_text=torch.tensor([1, 9, 2, 4]), text_to_image=torch.tensor([7])))
    assert metrics.image_to_text_median_rank == 3.0
    assert metrics.image_to_text_mean_rank == 4.0
    assert metrics.as_dict()["text_to_image_r10"] == 100.0
    assert metrics.as_dict()["rsum"] == metrics.rsum == 25.0 + 75.0 + 100.0 + 0.0 + 0.0 + 100.0


@pytest.mark.parametrize("owners", [[0, 1, 4], [0, -1, 2]])
def test_a_caption_whose_image_has_no_row_is_refused(owners):
    with pytest.raises(DataError, match=r"out of range at 1 of 3 captions .*4 image rows|has 4 image rows"):
        ranks(torch.zeros(4, 3), torch.tensor(owners))
    with pytest.raises(DataError, match="has 4 image rows"):
        RankCounts(torch.tensor(owners), torch.zeros(3), 4)


def test_a_matrix_without_captions_is_refused():
    with pytest.raises(DataError, match="at least one"):
        ranks(torch.zeros(4, 0), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("folds", [0, -1, 3, 24])
def test_folds_that_do_not_divide_the_images_are_refused(folds):
    with pytest.raises(DataError, match=f"23 images cannot be divided into {folds} equal folds"):
        fold_slices(23, folds)


def test_the_mean_of_no_metrics_is_refused():
    with pytest.raises(DataError, match="no metrics"):
        mean_metrics([])
