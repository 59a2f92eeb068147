"""An inspection as a whole: the page, and the numbers beside it."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from html_page import Page
from sklearn.metrics import roc_auc_score

from truepair.config import BaselineConfig, ModelConfig, NoiseConfig
from truepair.data.corpora import Corpus
from truepair.data.pairs import Splits
from truepair.errors import ConfigError
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.inspection.run import inspect_run
from truepair.model import retrieval_weights
from truepair.scoring.encodings import similarity_of_pairs
from truepair.training.folder import load_run


@pytest.mark.parametrize("which", ["inspected", "with_pictures"])
def test_the_page_loads_nothing_and_runs_nothing(which, request):
    page = Page(request.getfixturevalue(which).html)
    assert all(value.startswith(("data:image/webp;base64,", "#")) for value in page.loads)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not page.handlers
    assert page.open == []


def test_what_users_wrote_is_shown_as_text_never_as_markup(inspected):
    page = Page(inspected.html)
    assert inspected.evil not in inspected.html
    assert inspected.evil in "".join(page.text)
    assert "<b>7</b>" in "".join(page.text)
    assert "<b>7</b>" not in inspected.html
    assert "some of which are not theirs" in "".join(page.text)


def test_pictures_are_shown_where_they_can_be_read_and_words_where_not(with_pictures):
    page = Page(with_pictures.html)
    seen = [int(re.fullmatch(r"picture: <b>(\d+)</b>", image["alt"]).group(1)) for image in page.images]
    assert len(set(seen)) > 20
    assert all(number % 4 for number in seen), "the others cannot be read"
    assert with_pictures.html.count('<span class="words"') >= 1
    assert "This corpus has no pictures" not in with_pictures.html


def test_charts_are_svg_with_a_text_for_those_who_do_not_see_them(inspected):
    assert inspected.html.count('<svg role="img" aria-label="') == 5  # history, two histograms, two maps
    assert inspected.html.count("<svg ") == 5
    assert "<metadata>" not in inspected.html


def test_the_same_run_and_options_give_the_same_bytes(inspected, inspect):
    again = inspect(load_run(inspected.run.folder, inspected.run.corpus), items=100, examples=100)
    for name in ("inspect.html", "inspect.json"):
        assert (again.out / name).read_bytes() == (inspected.out / name).read_bytes()
    assert sorted(file.name for file in again.out.iterdir()) == ["inspect.html", "inspect.json"], "no part is left"


def test_the_numbers_are_those_of_the_run(inspected):
    summary, run = inspected.summary, inspected.run
    assert json.loads((inspected.out / "inspect.json").read_text()) == json.loads(json.dumps(summary))
    similarity = similarity_of_pairs(run.models, run.train)
    auroc = roc_auc_score(run.train.is_clean.numpy(), similarity.numpy())
    assert summary["separation"]["shared"]["auroc"] == pytest.approx(auroc)
    assert f"AUROC {auroc:.3f}" in inspected.html
    for space in ("shared", "features"):
        assert sum(summary["separation"][space]["matching"]) == int(run.train.is_clean.sum()) == 56
        assert sum(summary["separation"][space]["mismatched"]) == 24
    assert [epoch["epoch"] for epoch in summary["history"]["epochs"]] == [1, 2, 3, 4]
    assert summary["history"]["epochs"][0]["exclusive_information"] is None
    assert summary["history"]["epochs"][3]["exclusive_information"] >= 0
    assert summary["widths"] == {"features": 16, "shared": 16, "exclusive": 4}
    assert summary["clean_share"] == pytest.approx(0.7)
    assert len(summary["probes"]) == 6
    assert set(summary["exclusive_information"]) == {"image", "text"}


def test_examples_have_as_many_neighbours_of_each_kind_and_are_none_of_them(inspected):
    for example in inspected.summary["neighbours"]:
        for kind in ("shared", "exclusive"):
            assert len(set(example[kind])) == 8
            assert example["image"] not in example[kind]


def test_another_seed_draws_other_examples(disncl, tmp_path, inspected):
    other = inspect_run(disncl, tmp_path, items=12, examples=5, seed=1)
    assert other["pairs"] == 12
    assert len(other["neighbours"]) == 5
    assert [e["image"] for e in other["neighbours"]] != [e["image"] for e in inspected.summary["neighbours"][:5]]


def test_few_pairs_and_no_examples_leave_gaps_on_the_page_that_are_explained(disncl, tmp_path):
    summary = inspect_run(disncl, tmp_path, items=12, examples=0, seed=0)
    html = (tmp_path / "inspect.html").read_text(encoding="utf-8")
    assert summary["neighbours"] == []
    assert "What is close to what" not in html
    assert {(probe["ridge"], probe["mlp"]) for probe in summary["probes"]} == {(None, None)}
    assert "there are too few items" in html


def test_dropped_exclusive_codes_are_said_to_be_missing(disncl, corpus, inspect, tmp_path):
    folder = tmp_path / "dropped"
    shutil.copytree(disncl.folder, folder)
    best = load_checkpoint(folder / "best.safetensors")
    save_checkpoint(folder / "best.safetensors", best | {"models": [retrieval_weights(w) for w in best["models"]]})
    found = inspect(load_run(folder, corpus))
    assert found.summary["exclusive_codes"] == "dropped"
    assert found.summary["exclusive_information"] is None
    assert found.summary["widths"]["exclusive"] is None
    assert {probe["known"] for probe in found.summary["probes"]} == {"shared"}
    assert all(example["exclusive"] is None for example in found.summary["neighbours"])
    assert "There are no exclusive codes: their weights were dropped" in found.html
    assert "closest by exclusive code" not in found.html
    assert found.html.count("<svg ") == 4


def test_a_run_trained_without_exclusive_codes_is_shown_with_shared_ones(recipe, train, inspect):
    method = replace(recipe.method, exclusive_branch=False, main_epochs=1)
    found = inspect(train(replace(recipe, method=method)))
    assert found.summary["exclusive_codes"] == "not trained"
    assert "This run was trained without exclusive codes" in found.html
    assert all(epoch["exclusive_information"] is None for epoch in found.summary["history"]["epochs"])
    assert found.html.count("<svg ") == 4


def test_a_run_of_two_networks_without_mismatches_or_log(recipe, train, inspect):
    method = replace(recipe.method, networks=2, main_epochs=0)
    run = train(replace(recipe, method=method, noise=NoiseConfig()))
    (run.folder / "log.jsonl").unlink()
    found = inspect(run)
    assert "The run has 2 networks" in found.html
    assert found.summary["separation"]["kinds"] == ("your pairs", "random pairings")
    assert sum(found.summary["separation"]["shared"]["mismatched"]) == 40
    assert found.summary["history"]["epochs"] == []
    assert "How the codes came about" not in found.html


def test_a_run_with_saf_is_inspected_by_the_similarity_that_it_was_trained_for(
    world, dev_world, vocabulary, recipe, train, inspect
):
    model = ModelConfig("saf", embedding=8, word_size=6, similarity_size=4, shared_size=6)
    method = replace(recipe.method, main_epochs=1)
    corpus = Corpus(Splits(world, dev_world, dev_world, "the world"), vocabulary, [])
    found = inspect(train(replace(recipe, model=model, method=method), corpus))
    assert found.summary["pairs"] == 20
    assert found.summary["exclusive_information"] == {"image": None, "text": None}
    assert "It takes at least 50 items" in found.html
    assert "a space in common only after the shared heads" in found.html
    assert "closest by exclusive code" in found.html


def test_a_run_without_codes_is_refused(recipe, train, tmp_path):
    run = train(replace(recipe, method=BaselineConfig(epochs=1)))
    with pytest.raises(ConfigError, match="method 'baseline', whose network makes no shared or exclusive codes"):
        inspect_run(run, tmp_path / "out", items=10, examples=1, seed=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "told"), [({"items": 1}, "--items is 1"), ({"examples": -1}, "--examples is -1")])
def test_impossible_numbers_are_refused(option, told, disncl, tmp_path):
    with pytest.raises(ConfigError, match=told):
        inspect_run(disncl, tmp_path / "out", **({"items": 10, "examples": 1, "seed": 0} | option))
    assert not (tmp_path / "out").exists()


def test_a_corpus_of_one_image_is_refused(corpus, disncl, tmp_path):
    one = replace(
        corpus, splits=replace(corpus.splits, test=corpus.splits.test.select(corpus.splits.test.image_of_caption[:1]))
    )
    with pytest.raises(ConfigError, match="80 training and 1 test images, but at least 2"):
        inspect_run(load_run(disncl.folder, one), tmp_path, items=200, examples=1, seed=0)
