import math
from dataclasses import replace

import pytest
import torch
import torch.nn as nn

from truepair import progress
from truepair.config import ModelConfig
from truepair.data.features import Features
from truepair.data.noise import inject_noise
from truepair.data.pairs import Pairs
from truepair.data.text import Tokens, WordsAndVectors
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation import retrieval
from truepair.evaluation.recall import mean_metrics, ranks, retrieval_metrics
from truepair.evaluation.retrieval import evaluate
from truepair.evaluation.saved_counts import fingerprint
from truepair.files.checkpoint import load_checkpoint
from truepair.model import InputShape, MatchingModel, make_model


def whole_matrix(model, pairs):
    """All images against all captions in one go, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        images = model.image_encoder(pairs.images.take(torch.arange(len(pairs.images))))
        captions = model.text_encoder(pairs.caption_inputs.take(torch.arange(len(pairs))))
        return model.scores.matrix(images, captions)


@pytest.fixture
def models(make):
    """Two that disagree; fresh ones rank more or less at random."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make())
    return models


class WrittenDown(nn.Module):
    """A similarity that is looked up in a matrix, by the numbers that items have instead of features.

    Attributes:
        scored: How many entries `matrix` has looked up.
        breaks_at: The call of `matrix`, from 1, that is interrupted.
    """

    def __init__(self, matrix):
        super().__init__()
        self.entries = nn.Parameter(matrix)
        self.scored = self.calls = 0
        self.breaks_at = None

    def matrix(self, images, captions):
        self.calls += 1
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        self.scored += len(images) * len(captions)
        return self.entries[images.values[:, 0].long()][:, captions.values[:, 0].long()]

    def paired(self, images, captions):
        return self.entries[images.values[:, 0].long(), captions.values[:, 0].long()]


def written_down(matrix):
    return MatchingModel(nn.Identity(), nn.Identity(), WrittenDown(matrix))


def numbered(image_of_caption, images):
    """Pairs whose inputs are their own row numbers; captions of many lengths."""
    captions = len(image_of_caption)
    return Pairs(
        images=Features(torch.arange(images, dtype=torch.float32)[:, None].numpy()),
        captions=["word " * (1 + caption * 7 % 5) for caption in range(captions)],
        image_of_caption=image_of_caption,
        image_ids=[f"image {i}" for i in range(images)],
        caption_ids=[f"caption {i}" for i in range(captions)],
        caption_inputs=Features(torch.arange(captions, dtype=torch.float32)[:, None].numpy()),
    )


@pytest.fixture
def gallery():
    """12 images, 30 captions in any order, and random similarities."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.cat([torch.arange(12), torch.randint(12, (18,), generator=generator)])
    owners = owners[torch.randperm(30, generator=generator)]
    return numbered(owners, 12), torch.rand(12, 30, generator=generator)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of at most 5 × 4, saved one by one: a gallery of 12 × 30 has 24."""
    monkeypatch.setattr(retrieval, "_IMAGES_IN_BLOCK", 5)
    monkeypatch.setattr(retrieval, "_CAPTIONS_IN_BLOCK", 4)
    monkeypatch.setattr(retrieval, "_SECONDS_BETWEEN_SAVES", 0.0)


def metrics_of(matrix, pairs):
    return retrieval_metrics(ranks(matrix, pairs.image_of_caption))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_evaluation_gives_the_ranks_of_the_whole_matrix(models, world, batch_size):
    expected = metrics_of(whole_matrix(models[0], world), world)
    assert evaluate([models[0]], world, batch_size=batch_size) == expected
    assert 0 < expected.rsum < 600


@pytest.mark.parametrize("similarity", ["cosine", "saf", "sgr"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (20, 40)])
def test_blocks_of_any_size_give_the_ranks_of_the_whole_matrix(
    world, vocabulary, small, sizes, similarity, monkeypatch
):
    torch.manual_seed(0)
    model = make_model(replace(small, similarity=similarity, similarity_size=4), InputShape.of(world, vocabulary))
    monkeypatch.setattr(retrieval, "_IMAGES_IN_BLOCK", sizes[0])
    monkeypatch.setattr(retrieval, "_CAPTIONS_IN_BLOCK", sizes[1])
    assert evaluate([model], world) == metrics_of(whole_matrix(model, world), world)


def test_two_models_are_ranked_by_the_mean_of_their_similarities(models, world):
    matrices = [whole_matrix(model, world) for model in models]
    expected = metrics_of(sum(matrices) / 2, world)
    assert evaluate(models, world) == expected
    separately = [metrics_of(matrix, world) for matrix in matrices]
    assert separately == [evaluate([model], world) for model in models]
    assert expected != mean_metrics(separately)


def test_two_matrices_by_hand():
    # Each is right by far about one image and wrong by a little about the other; together they are right about both.
    pairs = numbered(torch.tensor([0, 1]), 2)
    first, second = torch.tensor([[0.9, 0.1], [0.5, 0.4]]), torch.tensor([[0.4, 0.5], [0.1, 0.9]])
    assert [evaluate([written_down(m)], pairs).image_to_text_r1 for m in (first, second)] == [50.0, 50.0]
    assert evaluate([written_down(first), written_down(second)], pairs).image_to_text_r1 == 100.0


def test_models_of_unlike_similarities_are_averaged(world, vocabulary, small):
    models = []
    for seed, similarity in enumerate(("saf", "sgr")):
        torch.manual_seed(seed)
        models.append(make_model(replace(small, similarity=similarity), InputShape.of(world, vocabulary)))
    assert evaluate(models, world) == metrics_of(sum(whole_matrix(model, world) for model in models) / 2, world)


def test_a_model_and_itself_are_as_good_as_the_model(models, world):
    assert evaluate([models[0], models[0]], world) == evaluate([models[0]], world)


def test_the_order_of_captions_is_irrelevant(models, world):
    shuffled = world.select(torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    assert evaluate([models[0]], shuffled) == evaluate([models[0]], world)


def test_pairs_are_taken_as_they_are_and_the_truth_is_not_looked_at(models, world):
    noisy = inject_noise(world, 0.5, seed=0)
    blind = replace(noisy, true_image_of_caption=None)
    assert evaluate([models[0]], noisy) == evaluate([models[0]], blind)
    assert evaluate([models[0]], noisy) != evaluate([models[0]], world)


def test_vectors_on_both_sides(vector_world):
    torch.manual_seed(0)
    model = make_model(ModelConfig(embedding=8), InputShape.of(vector_world, None))
    assert evaluate([model], vector_world) == metrics_of(whole_matrix(model, vector_world), vector_world)


def test_evaluation_draws_nothing_from_the_global_generator(models, world):
    before = torch.random.get_rng_state()
    evaluate(models, world)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_stored_once_or_once_a_caption_have_the_same_recalls(models, world):
    repeated = Features(world.images.take(torch.arange(20).repeat_interleave(2)).values.numpy())
    every_second = Features(repeated.take(torch.arange(0, 40, 2)).values.numpy())
    assert evaluate([models[0]], replace(world, images=every_second)) == evaluate([models[0]], world)


def test_two_folds_by_hand():
    # Fold 0 (images 0 and 1) finds everything. In fold 1, image 2 finds its caption and caption 2 its image; image 3
    # prefers caption 2, and so does caption 3 image 2. Scores across folds are higher than all of that.
    matrix = torch.full((4, 4), 0.9)
    matrix[:2, :2] = torch.tensor([[0.5, 0.1], [0.1, 0.5]])
    matrix[2:, 2:] = torch.tensor([[0.5, 0.3], [0.4, 0.2]])
    pairs = numbered(torch.arange(4), 4)
    metrics = evaluate([written_down(matrix)], pairs, folds=2)
    assert (metrics.image_to_text_r1, metrics.text_to_image_r1) == ((100 + 50) / 2, (100 + 50) / 2)
    assert (metrics.image_to_text_mean_rank, metrics.text_to_image_median_rank) == ((1 + 1.5) / 2, (1 + 1.5) / 2)
    assert metrics.rsum == 75.0 + 100.0 + 100.0 + 75.0 + 100.0 + 100.0
    whole = evaluate([written_down(matrix)], pairs)
    assert (whole.image_to_text_r1, whole.text_to_image_r1) == (0.0, 0.0)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 4), (256, 1024)])
def test_folds_are_separate_evaluations_and_nothing_across_folds_is_scored(gallery, sizes, monkeypatch):
    monkeypatch.setattr(retrieval, "_IMAGES_IN_BLOCK", sizes[0])
    monkeypatch.setattr(retrieval, "_CAPTIONS_IN_BLOCK", sizes[1])
    pairs, matrix = gallery
    separate, entries = [], 0
    for start in (0, 4, 8):
        chosen = ((pairs.image_of_caption >= start) & (pairs.image_of_caption < start + 4)).nonzero().flatten()
        part = matrix[start : start + 4][:, chosen]
        separate.append(retrieval_metrics(ranks(part, pairs.image_of_caption[chosen] - start)))
        entries += part.numel()
    model = written_down(matrix)
    mean = evaluate([model], pairs, folds=3)
    assert mean == mean_metrics(separate)
    assert mean.rsum == pytest.approx(sum(metrics.rsum for metrics in separate) / 3)
    assert model.similarity.scored == entries == 4 * 30


@pytest.mark.parametrize("folds", [0, 5, 13])
def test_folds_that_do_not_divide_the_images_are_refused_before_any_work(gallery, folds):
    pairs, matrix = gallery
    model = written_down(matrix)
    with pytest.raises(DataError, match=f"12 images cannot be divided into {folds} equal folds"):
        evaluate([model], pairs, folds)
    assert model.similarity.calls == 0


def test_a_fold_without_a_caption_is_refused():
    pairs = numbered(torch.tensor([0, 1, 2, 2]), 6)
    with pytest.raises(DataError, match=r"fold 3 of 3 \(images 4 … 5\) has no caption"):
        evaluate([written_down(torch.rand(6, 4))], pairs, folds=3)


def test_no_model_is_refused(world):
    with pytest.raises(ConfigError, match="no model"):
        evaluate([], world)


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("broken_block", [1, 2, 9])
def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_bits(
    gallery, folds, broken_block, small_blocks, tmp_path
):
    pairs, matrix = gallery
    other = torch.rand(12, 30, generator=torch.Generator().manual_seed(1))
    peace, (interrupted, second) = [[written_down(matrix), written_down(other)] for _ in range(2)]
    expected = evaluate(peace, pairs, folds, state=tmp_path / "peace")

    second.similarity.breaks_at = broken_block  # the block's similarities by the first model are there, and lost
    with pytest.raises(KeyboardInterrupt):
        evaluate([interrupted, second], pairs, folds, state=tmp_path / "killed")
    assert evaluate([interrupted, second], pairs, folds, state=tmp_path / "killed") == expected
    assert second.similarity.scored == peace[1].similarity.scored, "no block is scored twice"

    (one,), (two,) = ([*(tmp_path / name).iterdir()] for name in ("peace", "killed"))
    one, two = load_checkpoint(one), load_checkpoint(two)
    for name in ("own", "wrong_captions", "wrong_images"):
        assert torch.equal(one[name], two[name])


def test_a_complete_evaluation_is_answered_from_its_state(gallery, small_blocks, tmp_path):
    pairs, matrix = gallery
    model = written_down(matrix)
    expected = evaluate([model], pairs, 3, state=tmp_path)
    model.similarity.breaks_at = model.similarity.calls + 1
    assert evaluate([model], pairs, 3, state=tmp_path) == expected


def test_evaluations_of_other_models_pairs_folds_or_blocks_do_not_meet_in_a_folder(
    gallery, small_blocks, tmp_path, monkeypatch
):
    pairs, matrix = gallery
    model, changed = written_down(matrix), written_down(matrix.clone().fill_diagonal_(0.99))
    swapped = replace(pairs, image_of_caption=pairs.image_of_caption.flip(0))
    features = pairs.images.take(torch.arange(12)).values
    features[[3, 4]] = features[[4, 3]]
    moved = replace(pairs, images=Features(features.numpy()))
    retold = pairs.caption_inputs.take(torch.arange(30).flip(0)).values
    shorter = replace(pairs, captions=[caption[: 1 + 3 * i % 7] for i, caption in enumerate(pairs.captions)])
    calls = [
        ([model], pairs, 1),
        ([model], shorter, 1),
        ([model], pairs, 3),
        ([changed], pairs, 1),
        ([model, changed], pairs, 1),
        ([changed, model], pairs, 1),
        ([model], swapped, 1),
        ([model], moved, 1),
        ([model], replace(pairs, caption_inputs=Features(retold.numpy())), 1),
    ]
    expected = [evaluate(*call) for call in calls]
    assert [evaluate(*call, state=tmp_path) for call in calls] == expected
    monkeypatch.setattr(retrieval, "_CAPTIONS_IN_BLOCK", 3)
    assert evaluate(*calls[0], state=tmp_path) == expected[0]
    assert len(list(tmp_path.iterdir())) == len(calls) + 1
    assert [evaluate(*call, state=tmp_path) for call in calls] == expected


def test_a_fingerprint_tells_vectors_beside_words_apart(gallery):
    pairs, matrix = gallery
    words = Tokens(torch.ones(30, dtype=torch.int32), torch.arange(31))
    vectors = torch.rand(30, 4).numpy()
    one, other = (
        fingerprint(
            [written_down(matrix)], replace(pairs, caption_inputs=WordsAndVectors(words, Features(found))), [], 8
        )
        for found in (vectors, vectors[::-1].copy())
    )
    assert one != other


def test_counts_under_anothers_name_and_damaged_ones_are_refused(gallery, small_blocks, tmp_path):
    pairs, matrix = gallery
    evaluate([written_down(matrix)], pairs, state=tmp_path / "one")
    evaluate([written_down(matrix / 2)], pairs, state=tmp_path / "two")
    (one,), (two,) = ([*(tmp_path / name).iterdir()] for name in ("one", "two"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(CheckpointError, match="holds counts of other models, pairs or blocks"):
        evaluate([written_down(matrix)], pairs, state=tmp_path / "one")
    two.write_bytes(two.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        evaluate([written_down(matrix / 2)], pairs, state=tmp_path / "two")


def test_a_state_that_cannot_be_written_is_told_once_and_ends_nothing(gallery, small_blocks, tmp_path):
    pairs, matrix = gallery
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="the state of this evaluation cannot be saved, and it goes on") as warned:
        metrics = evaluate([written_down(matrix)], pairs, state=tmp_path / "file" / "state")
    assert len(warned) == 1
    assert metrics == evaluate([written_down(matrix)], pairs)


def test_a_short_evaluation_writes_nothing_and_no_state_is_the_same(gallery, tmp_path):
    pairs, matrix = gallery
    assert evaluate([written_down(matrix)], pairs, state=tmp_path / "new") == evaluate([written_down(matrix)], pairs)
    assert not (tmp_path / "new").exists()


def test_the_counts_are_saved_when_time_has_passed_and_at_the_end(gallery, small_blocks, tmp_path, monkeypatch):
    pairs, matrix = gallery
    clock = iter(range(1000))  # a second a look: at the start, after each block, after each save
    monkeypatch.setattr(retrieval.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(retrieval, "_SECONDS_BETWEEN_SAVES", 5.0)
    saves = []
    monkeypatch.setattr(
        retrieval.SavedCounts, "save", lambda self, counts, blocks: saves.append(blocks) or self.path.touch()
    )
    evaluate([written_down(matrix)], pairs, state=tmp_path)
    assert saves == [5, 10, 15, 20, 24]


@pytest.mark.parametrize("models", [1, 2])
def test_nan_is_reported_with_its_model_block_and_pair_and_what_was_counted_stays(
    gallery, small_blocks, tmp_path, models
):
    pairs, matrix = gallery
    broken = matrix.clone()
    caption = int((pairs.image_of_caption != 11).nonzero()[-1])
    broken[11, caption] = math.nan
    ensemble = [written_down(matrix), written_down(broken)][-models:]
    which = r"similarity of model 2 of 2 is" if models == 2 else "similarity is"
    where = rf"NaN for image 11 \('image 11'\) and caption {caption} \('caption {caption}'; block (\d+) of 24\)"
    with pytest.raises(DataError, match=f"{which} {where}.*features.*learning rate") as error:
        evaluate(ensemble, pairs, state=tmp_path)
    number = int(str(error.value).split("; block ")[1].split(" of ")[0])
    (file,) = tmp_path.iterdir()
    assert load_checkpoint(file)["blocks"] == number - 1 > 0


def test_nan_in_a_pair_itself_is_reported_before_the_first_block(gallery):
    pairs, matrix = gallery
    owner = int(pairs.image_of_caption[17])
    matrix[owner, 17] = math.nan
    model = written_down(matrix)
    with pytest.raises(DataError, match=rf"NaN for image {owner} .* caption 17 \('caption 17'; its own image"):
        evaluate([model], pairs)
    assert model.similarity.calls == 0


def test_progress_counts_pairs_and_goes_on_where_scoring_stopped(gallery, small_blocks, tmp_path, monkeypatch, capsys):
    pairs, matrix = gallery
    model = written_down(matrix)
    evaluate([model], pairs)
    assert capsys.readouterr() == ("", ""), "too quick for a line"
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    model.similarity.breaks_at = model.similarity.calls + 13
    with pytest.raises(KeyboardInterrupt):
        evaluate([model], pairs, state=tmp_path)
    assert capsys.readouterr().err.splitlines()[-1].startswith("scoring: 192 of 360 pairs, ")
    evaluate([model], pairs, state=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("scoring: 212 of 360 pairs, "), "12 of 24 blocks were done"
    assert lines[-1].startswith("scoring: 360 of 360 pairs, ")
