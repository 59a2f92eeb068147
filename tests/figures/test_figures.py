"""The papers' figures from finished runs: which runs share a plot, what lines hold, and what is left out."""

import json
import re
from dataclasses import replace

import pytest

from truepair.config import (
    CrclConfig,
    DataConfig,
    ModelConfig,
    MscnConfig,
    NoiseConfig,
    OptimisationConfig,
    Recipe,
    TrainingConfig,
)
from truepair.errors import ConfigError
from truepair.figures.charts import curves_chart
from truepair.figures.curves import Curve, Point, noise_figures, option_figures
from truepair.figures.page import draw_figures
from truepair.figures.runs import FinishedRun, find_runs, systems_of
from truepair.training.results import read_results, write_results
from truepair.training.run import run

TINY = Recipe(
    data=DataConfig(path="demo"),
    noise=NoiseConfig(rate=0.4),
    model=ModelConfig(embedding=8, words="mean"),
    method=CrclConfig(stages=(1,), frozen_epochs=1, optimisation=OptimisationConfig(learning_rate=5e-3)),
    training=TrainingConfig(device="cpu", batch_size=256),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one finished run."""
    folder = tmp_path_factory.mktemp("runs")
    run(TINY, folder / "one")
    return folder


def made(run, rate=0.4, level="caption", seed=0, rsum=100.0, corpus="demo", noise=(), data=(), **options):
    """That run, as if it had other noise, options and results."""
    changed = replace(run.recipe.method, **options)
    of_noise = replace(run.recipe.noise, rate=rate, level=level, seed=seed, **dict(noise))
    recipe = replace(run.recipe, noise=of_noise, data=replace(run.recipe.data, **dict(data)), method=changed)
    test = replace(run.results.test, image_to_text_r1=rsum - run.results.test.rsum + run.results.test.image_to_text_r1)
    results = replace(run.results, test=test, seed=seed, corpus=corpus)
    name = "_".join(map(str, (corpus, rate, level, seed, noise, data, *options.values())))
    return FinishedRun(run.folder / name, recipe, results)


@pytest.fixture
def one(trained):
    (found,), left_out = find_runs([trained])
    assert not left_out
    return found


def test_a_line_has_a_point_a_rate_with_the_spread_over_seeds(one):
    runs = [made(one, rate, seed=seed, rsum=rsum) for rate, seed, rsum in ((0.4, 0, 90), (0.4, 1, 94), (0.0, 0, 120))]
    (figure,) = noise_figures(runs)
    (curve,) = figure.curves["rsum"]
    assert curve.label == "CRCL"
    assert [(point.at, point.seeds) for point in curve.points] == [(0.0, (0,)), (0.4, (0, 1))]
    assert [point.mean for point in curve.points] == pytest.approx([120, 92])
    assert (curve.points[0].sd, curve.points[1].sd) == (None, pytest.approx(8**0.5))


def test_corpora_and_levels_never_share_a_plot_and_runs_without_noise_are_in_each(one):
    runs = [made(one), made(one, level="image"), made(one, 0.0), made(one, corpus="other")]
    figures = noise_figures(runs)
    assert [(figure.corpus.split(",")[0], figure.level) for figure in figures] == [
        ("demo", "caption"),
        ("demo", "image"),
        ("other", "caption"),
    ]
    assert [figure.rates for figure in figures] == [2, 2, 1]


def test_hard_noise_noisy_development_pairs_and_other_inputs_are_no_seeds_of_the_same(one):
    similar, noisy = {"partners": "similar"}, {"development": True}
    runs = [made(one), made(one, seed=1), made(one, noise=similar), made(one, 0.0), made(one, 0.0, noise=noisy)]
    runs += [made(one, noise=noisy), made(one, data={"text": "words"})]
    captions, alike = noise_figures(runs)
    assert (captions.level, alike.level) == ("caption", "similar captions")
    seeds = {
        (figure.level, curve.label): {point.at: point.seeds for point in curve.points}
        for figure in (captions, alike)
        for curve in figure.curves["rsum"]
        if curve.points
    }
    assert seeds == {
        ("caption", "CRCL, text auto"): {0.0: (0,), 0.4: (0, 1)},
        ("caption", "CRCL, text auto, noisy development pairs"): {0.4: (0,)},
        ("caption", "CRCL, text words"): {0.4: (0,)},
        ("similar captions", "CRCL, text auto"): {0.0: (0,), 0.4: (0,)},
    }


def test_a_system_has_its_place_in_every_plot_also_where_it_has_no_run(one):
    runs = [made(one), made(one, 0.2), made(one, level="image", refine=False), made(one, 0.2, "image", refine=False)]
    captions, images = noise_figures(runs)
    assert [curve.label for curve in images.curves["rsum"]] == [curve.label for curve in captions.curves["rsum"]]
    assert [len(curve.points) for curve in images.curves["rsum"]] == [0, 2]


def test_systems_are_named_for_what_they_differ_in(one):
    runs = [made(one), made(one, refine=False), made(one, temperature=0.1), made(one, seed=1), made(one, 0.2)]
    assert [*systems_of(runs).values()] == [
        "CRCL, temperature 0.05",
        "CRCL, temperature 0.05, without SCC",
        "CRCL, temperature 0.1",
        "CRCL, temperature 0.05",
        "CRCL, temperature 0.05",
    ]


def test_an_option_is_drawn_where_nothing_else_differs_and_other_options_make_other_lines(one):
    runs = [
        made(one, rsum=temperature * 1000 + 10 * momentum, temperature=temperature, momentum=momentum)
        for temperature in (0.1, 0.03)
        for momentum in (0.5, 0.8)
    ]
    by_option = {figure.option: figure.curves["rsum"] for figure in option_figures([*runs, made(one, 0.2)])}
    assert by_option.keys() == {"method.temperature", "method.momentum"}
    drawn = by_option["method.temperature"]
    lines = {curve.label: [(point.at, point.mean) for point in curve.points] for curve in drawn}
    assert lines == {
        "momentum 0.5": [(0.03, pytest.approx(35)), (0.1, pytest.approx(105))],
        "momentum 0.8": [(0.03, pytest.approx(38)), (0.1, pytest.approx(108))],
    }


def test_lines_join_numbers_and_nothing_joins_values_that_are_none():
    def lines(*places):
        points = tuple(Point(at, float(number), None, (0,)) for number, at in enumerate(places))
        drawn = curves_chart([Curve("one", points), Curve("other", points)], "x", "y", "what it shows")
        return re.findall("stroke-width: 1.6; stroke-linecap: square", drawn)  # of lines alone, here and in the legend

    assert len(lines(0.1, 0.3)) == 4
    assert not lines("adam", "adamw")


def test_the_page_holds_every_figure_and_each_is_a_file_too(trained, tmp_path):
    found = draw_figures([trained], tmp_path, pairs=200, rate=0.4, seed=0)
    page = (tmp_path / "figures.html").read_text()
    assert found["runs"] == 1
    kinds = {name.removeprefix("pairs_1_crcl_caption_40_") for name in found["figures"] if name.startswith("pairs_")}
    assert kinds == {"similarity", "confidence", "last_correspondence", "correspondence_by_epoch"}
    for name in found["figures"]:
        svg = (tmp_path / f"{name}.svg").read_text()
        assert svg.startswith("<svg ")
        assert svg in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    before = page
    draw_figures([trained], tmp_path, pairs=200, rate=0.4, seed=0)
    assert (tmp_path / "figures.html").read_text() == before


@pytest.mark.filterwarnings("ignore:MSCN learns from pairs")
def test_mixtures_of_mscn_are_drawn_over_the_similarities_that_they_were_fitted_to(tmp_path):
    method = MscnConfig(networks=2, warmup_epochs=1, warmup_batch_size=256, purified_epochs=2, meta_batch_size=16)
    recipe = Recipe(
        noise=NoiseConfig(0.4),
        model=ModelConfig(words="mean", embedding=16, word_size=16),
        method=method,
        training=TrainingConfig(batch_size=256, device="cpu"),
    )
    run(recipe, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = [line for line in log if "mixture_clean_a" in line]
    assert [line["epoch"] for line in logged] == [1, 2]
    assert all(0 <= line["mixture_noise_rate"] <= 1 for line in logged)
    of_epochs = {line["epoch"]: line["pair_state"] for line in log if line["kind"] == "epoch" and "pair_state" in line}
    assert {epoch: {*states} for epoch, states in of_epochs.items()} == {
        epoch: {"posterior", "similarity"} for epoch in (1, 2)
    }
    found = draw_figures([tmp_path / "run"], tmp_path / "out", pairs=0, rate=0.4, seed=0)
    drawn = {name.removeprefix("pairs_1_mscn_caption_40_") for name in found["figures"]}
    assert {"mixture_by_epoch", "mixture_2", "mixture_3", "similarity_by_epoch", "meta_loss", "margin"} <= drawn


def test_the_log_has_the_state_of_pairs_after_each_epoch_and_the_table_the_last_one(trained):
    import pyarrow.parquet as pq

    lines = [json.loads(line) for line in (trained / "one" / "log.jsonl").read_text().splitlines()]
    states = [line["pair_state"]["correspondence"] for line in lines if line["kind"] == "epoch"]
    table = pq.read_table(trained / "one" / "pairs.parquet")
    is_clean, last = table["is_clean"].to_numpy(), table["last_correspondence"].to_numpy()
    matching = last[is_clean]
    assert len(states) == 2
    assert sum(states[-1]["matching"]) == len(matching)
    assert states[-1]["matching"][0] == (matching < 0.05).sum()
    assert states[-1]["mismatched"][-1] == (last[~is_clean] >= 0.95).sum()


def test_what_has_not_finished_or_is_damaged_is_left_out_and_said(trained, tmp_path):
    for name in ("unfinished", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes((trained / "one" / "run.json").read_bytes())
    (tmp_path / "damaged" / "results.json").write_text("{")
    write_results(tmp_path / "unfinished", read_results(trained / "one"))
    (tmp_path / "unfinished" / "results.json").unlink()
    found = draw_figures([trained, tmp_path], tmp_path / "out", pairs=0, rate=0.4, seed=0)
    assert found["runs"] == 1
    assert "has not finished" in found["left_out"][str(tmp_path / "unfinished")]
    assert "damaged" in found["left_out"][str(tmp_path / "damaged")]
    with pytest.raises(ConfigError, match="no run there has finished"):
        draw_figures([tmp_path / "unfinished"], tmp_path / "out", pairs=0, rate=0.4, seed=0)


def test_a_folder_without_a_run_is_refused_and_no_run_at_all_draws_the_theory(tmp_path):
    with pytest.raises(ConfigError, match="there is no run in"):
        draw_figures([tmp_path], tmp_path / "out", pairs=0, rate=0.4, seed=0)
    found = draw_figures([], tmp_path / "out", pairs=0, rate=0.4, seed=0)
    assert {*found["figures"]} == {"tolerance", "tolerance_02"}


def test_a_run_whose_data_are_gone_shows_what_its_folder_has(trained, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in (trained / "one").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    described = json.loads((folder / "run.json").read_text())
    described["recipe"]["data"]["path"] = str(tmp_path / "nowhere")
    (folder / "run.json").write_text(json.dumps(described))
    found = draw_figures([folder], tmp_path / "out", pairs=100, rate=0.4, seed=0)
    assert "pairs_1_crcl_caption_40_confidence" in found["figures"]
    assert "pairs_1_crcl_caption_40_similarity" not in found["figures"]
    assert "its pairs are not drawn" in found["left_out"][str(folder)]
