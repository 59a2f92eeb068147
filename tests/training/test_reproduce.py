"""The recipes that come with truepair, reproduced on miniature corpora with tiny networks."""

import csv
import json
import runpy
import shutil
import statistics
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from photographs import write_photographs
from tiny_networks import save_clip

from truepair.config import DataConfig, NoiseConfig, Recipe, SourceConfig, TrustedConfig
from truepair.data.corpora import load_corpus
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.recall import mean_metrics, ranks, retrieval_metrics
from truepair.evaluation.retrieval import evaluate
from truepair.scoring.encodings import encode_captions, encode_images
from truepair.training.folder import load_run, load_runs
from truepair.training.recipe import SHIPPED, RecipeFile, load_recipe, load_recipe_file
from truepair.training.reproduce import (
    MEASURES,
    member_recipe,
    missing_file,
    rehearsal,
    reproduce,
    with_data_in,
    with_noise_index,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The miniature corpora in both layouts of image rows."""
    folder = tmp_path_factory.mktemp("corpora")
    write_miniatures = runpy.run_path(str(ROOT / "tools" / "miniature_corpora.py"))["write_miniatures"]
    for rows in ("images", "captions"):
        write_miniatures(folder / rows, rows)
    return folder


def rehearsed(name: str, data: Path, out: Path, seeds: tuple[int, ...] = (0,)) -> dict:
    file = load_recipe_file(SHIPPED / f"{name}.toml")
    recipe = rehearsal(with_data_in(file.recipe, data))
    recipe = replace(recipe, training=replace(recipe.training, device="cpu"))
    return reproduce(replace(file, recipe=recipe), out / name, seeds)


@pytest.fixture(scope="module")
def sgraf_on_coco(corpora, tmp_path_factory):
    """A SAF and an SGR network on MS-COCO in miniature: folder and summary."""
    out = tmp_path_factory.mktemp("out")
    summary = rehearsed("crcl_sgraf_coco_40", corpora / "images", out)
    return out / "crcl_sgraf_coco_40", summary


def test_both_layouts_of_image_rows_give_identical_recalls(corpora, sgraf_on_coco, tmp_path):
    assert rehearsed("crcl_sgraf_coco_40", corpora / "captions", tmp_path)["ours"] == sgraf_on_coco[1]["ours"]
    f30k = [rehearsed("crcl_vse_f30k_80", corpora / rows, tmp_path / rows) for rows in ("images", "captions")]
    assert f30k[0]["ours"] == f30k[1]["ours"]


def test_an_ensembles_numbers_are_those_of_the_mean_of_its_matrices(sgraf_on_coco):
    folder, summary = sgraf_on_coco
    test = summary["runs"][0]["test"]
    runs = [load_run(folder / name) for name in ("saf_0", "sgr_0")]
    pairs = runs[0].corpus.splits.test
    assert evaluate([run.models[0] for run in runs], pairs, 5).as_dict() == test

    with torch.inference_mode():
        matrices = [
            run.models[0].scores.matrix(
                encode_images(run.models[0], pairs.images), encode_captions(run.models[0], pairs)
            )
            for run in runs
        ]
    mean = (matrices[0] + matrices[1]) / 2
    folds = [
        retrieval_metrics(ranks(mean[6 * k : 6 * k + 6, 30 * k : 30 * k + 30], torch.arange(30) // 5)) for k in range(5)
    ]
    assert mean_metrics(folds).as_dict() == pytest.approx(test)

    members = summary["runs"][0]["members"]
    assert statistics.fmean(members[name]["test"]["rsum"] for name in ("saf", "sgr")) != pytest.approx(test["rsum"])


def test_members_meet_the_same_mismatches_and_seeds_do_not(sgraf_on_coco):
    saf, sgr = (load_run(sgraf_on_coco[0] / name) for name in ("saf_0", "sgr_0"))
    assert saf.recipe == replace(sgr.recipe, model=replace(sgr.recipe.model, similarity="saf"))
    assert torch.equal(saf.train.image_of_caption, sgr.train.image_of_caption)
    assert saf.train.realised_noise_rate == pytest.approx(0.4)
    other = member_recipe(saf.recipe, "saf", 1)
    assert (other.noise.seed, other.training.seed) == (1, 1)


def test_the_protocol_is_that_of_the_corpus_and_is_told(sgraf_on_coco, corpora, tmp_path):
    protocol = sgraf_on_coco[1]["protocol"]
    assert protocol.startswith("coco_precomp, testall split, mean over 5 folds of 6 images × 30 captions; mean simil")
    pairs = rehearsed("baseline_saf_cc152k_natural", corpora / "images", tmp_path)
    assert pairs["protocol"].startswith("cc152k_precomp, test split, 100 images × 100 captions; one network (saf);")
    assert pairs["realised_noise_rate"] is None
    assert not any("noise" in line for line in pairs["known_differences"])


def test_an_oracle_learns_from_the_pairs_that_are_left(corpora, tmp_path):
    summary = rehearsed("baseline_sgr_f30k_20_clean", corpora / "images", tmp_path)
    assert summary["runs"][0]["members"]["sgr"]["pairs"]["train"] == 320  # 80 % of 80 images × 5
    assert summary["realised_noise_rate"] == pytest.approx(0.2)


def test_ours_is_mean_and_deviation_over_seeds_and_the_difference_is_to_what_is_printed(corpora, tmp_path):
    summary = rehearsed("crcl_vse_f30k_80", corpora / "images", tmp_path, seeds=(3, 5))
    written = json.loads((tmp_path / "crcl_vse_f30k_80" / "reproduction.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert summary["seeds"] == [3, 5]
    published = dict(zip(MEASURES, (55.3, 82.1, 89.1, 39.7, 68.2, 77.8, 412.2), strict=True))
    assert summary["published"] == published
    for measure in MEASURES:
        first, second = (run["test"][measure] for run in summary["runs"])
        assert summary["ours"][measure]["mean"] == pytest.approx((first + second) / 2)
        assert summary["ours"][measure]["sd"] == pytest.approx(abs(first - second) / 2**0.5)
        assert summary["difference"][measure] == pytest.approx((first + second) / 2 - published[measure])


def times(folder: Path) -> dict[Path, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files if path.name != "reproduction.json"}


def test_what_is_done_is_not_done_again_even_when_the_corpus_is_gone(corpora, sgraf_on_coco, tmp_path):
    first = sgraf_on_coco[1]
    shutil.copytree(sgraf_on_coco[0], tmp_path / "crcl_sgraf_coco_40")
    before = times(tmp_path)
    here, elsewhere = corpora / "images" / "coco_precomp", corpora / "gone"
    here.rename(elsewhere)
    try:
        assert rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path) == first
        assert times(tmp_path) == before
        (tmp_path / "crcl_sgraf_coco_40" / "ensemble_0.json").unlink()
        with pytest.raises(DataError, match="does not exist"):  # now something is left to do
            rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path)
    finally:
        elsewhere.rename(here)
    assert rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path) == first


def test_a_seed_that_is_added_leaves_the_others_as_they_are(corpora, tmp_path):
    first = rehearsed("crcl_vse_f30k_80", corpora / "images", tmp_path, seeds=(0,))
    before = times(tmp_path)
    both = rehearsed("crcl_vse_f30k_80", corpora / "images", tmp_path, seeds=(1,))
    assert both["seeds"] == [0, 1]
    assert both["runs"][0] == first["runs"][0]
    assert both["ours"]["rsum"]["mean"] == pytest.approx(statistics.fmean(run["test"]["rsum"] for run in both["runs"]))
    assert before.items() < times(tmp_path).items()
    assert rehearsed("crcl_vse_f30k_80", corpora / "images", tmp_path, seeds=(0,)) == both


def test_a_member_trained_again_makes_the_ensemble_anew(corpora, sgraf_on_coco, tmp_path):
    folder = tmp_path / "crcl_sgraf_coco_40"
    shutil.copytree(sgraf_on_coco[0], folder)
    results = folder / "sgr_0" / "results.json"
    changed = json.loads(results.read_text()) | {"seconds": 1e6}
    results.write_text(json.dumps(changed), encoding="utf-8")
    rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path)
    ensemble = json.loads((folder / "ensemble_0.json").read_text())
    assert ensemble["members"]["sgr"]["seconds"] == 1e6
    assert ensemble["test"] == sgraf_on_coco[1]["runs"][0]["test"]


def test_a_folder_of_another_recipe_is_refused(corpora, sgraf_on_coco, tmp_path):
    shutil.copytree(sgraf_on_coco[0], tmp_path / "crcl_sgraf_coco_20")
    with pytest.raises(CheckpointError, match=r"saf_0 holds another run \(noise.rate: 0.4 there, 0.2 here\)"):
        rehearsed("crcl_sgraf_coco_20", corpora / "images", tmp_path)


def test_a_folder_of_other_networks_is_refused(corpora, sgraf_on_coco, tmp_path):
    shutil.copytree(sgraf_on_coco[0], tmp_path / "mine")
    file = load_recipe_file(SHIPPED / "crcl_sgraf_coco_40.toml")
    with pytest.raises(CheckpointError, match=r"is of other networks \(saf, sgr there, saf here\)"):
        reproduce(replace(file, members=("saf",)), tmp_path / "mine", (0,))


def test_other_folds_test_what_was_trained_again(corpora, sgraf_on_coco, tmp_path):
    folder = tmp_path / "crcl_sgraf_coco_40"
    shutil.copytree(sgraf_on_coco[0], folder)
    trained = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    file = load_recipe_file(SHIPPED / "crcl_sgraf_coco_40.toml")
    recipe = rehearsal(with_data_in(file.recipe, corpora / "images"))
    recipe = replace(recipe, data=replace(recipe.data, test_folds=1), training=replace(recipe.training, device="cpu"))
    summary = reproduce(replace(file, recipe=recipe), folder, (0,))
    assert "testall split, 30 images × 150 captions" in summary["protocol"]
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == trained
    runs = load_runs([folder / "saf_0", folder / "sgr_0"])
    assert summary["runs"][0]["test"] == evaluate([run.models[0] for run in runs], runs[0].corpus.splits.test).as_dict()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("ensemble_0.json", "{", "is damaged"),
        ("ensemble_0.json", "[]", r"it is \[\]"),
        ("ensemble_0.json", '{"members": {}, "test": {"rsum": 3}}', "test.image_to_text_r1 is None"),
        ("saf_0/results.json", "{}", 'missing value for field "corpus"'),
        ("saf_0/results.json", '{"corpus": "x", "pairs": 3}', 'wrong value type for field "pairs"'),
        ("sgr_0/run.json", "\xff", "is damaged"),
        ("sgr_0/run.json", "null", "it is None"),
        ("sgr_0/run.json", '{"recipe": {"data": 3}, "inputs": {}}', "data is 3, but it is a section"),
        ("reproduction.json", '{"seeds": 3, "members": []}', "seeds is 3"),
    ],
)
def test_a_damaged_result_is_named(name, content, told, corpora, sgraf_on_coco, tmp_path):
    folder = tmp_path / "crcl_sgraf_coco_40"
    shutil.copytree(sgraf_on_coco[0], folder)
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=rf"{name} is damaged \(.*{'' if told == 'is damaged' else told}"):
        rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ((), "seeds are missing"),
        ((1, 2, 1), "seeds are 1, 2, 1"),
        ((0, -1), "noise.seed is -1, but it must be at least"),
    ],
)
def test_bad_seeds_are_refused_before_anything_is_trained(seeds, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        reproduce(RecipeFile(Recipe()), tmp_path / "mine", seeds)
    assert not (tmp_path / "mine").exists()


FILES = {
    "path": "data/f30k_precomp",
    "vocabulary": "data/vocab/f30k_precomp_vocab.json",
    "source.image_root": "data/pictures",
    "image_features": "data/images.npy",
    "caption_features": "data/captions.npy",
}
EVERY_FILE = Recipe(
    data=DataConfig(
        source=SourceConfig(image_root=FILES["source.image_root"]),
        **{option: path for option, path in FILES.items() if option != "source.image_root"},
    ),
    noise=NoiseConfig(index="data/noise_index/f30k.npy"),
)


def test_only_paths_in_data_are_moved(tmp_path):
    moved = with_data_in(EVERY_FILE, tmp_path)
    for option, path in FILES.items():
        assert attrgetter(option)(moved.data) == str(tmp_path / path.removeprefix("data/"))
    assert moved.noise == NoiseConfig(index=str(tmp_path / "noise_index" / "f30k.npy"))
    for path in ("demo", "/data/f30k_precomp", "database/f30k"):
        elsewhere = Recipe(data=DataConfig(path=path))
        assert with_data_in(elsewhere, tmp_path) == elsewhere


def test_every_file_that_a_recipe_names_is_looked_for(tmp_path):
    recipe = with_data_in(replace(EVERY_FILE, data=replace(EVERY_FILE.data, test_split="testall")), tmp_path)
    regions = ["f30k_precomp/train_ims.npy", "f30k_precomp/dev_ims.npy", "f30k_precomp/testall_ims.npy"]
    named = [path.removeprefix("data/") for path in [*FILES.values(), EVERY_FILE.noise.index]]
    options = [*(f"data.{option}" for option in FILES), "noise.index", *["data.path"] * 3]
    for option, path in zip(options, [*named, *regions], strict=True):
        missing = tmp_path / path
        assert missing_file(recipe) == (option, missing)
        if path == "f30k_precomp":
            missing.mkdir()
        else:
            missing.parent.mkdir(exist_ok=True)
            missing.touch()
    assert missing_file(recipe) is None


def test_a_table_of_trusted_pairs_is_moved_and_looked_for(tmp_path):
    recipe = with_data_in(Recipe(trusted=TrustedConfig(source="file", path="data/checked.csv")), tmp_path)
    assert missing_file(recipe) == ("trusted.path", tmp_path / "checked.csv")
    (tmp_path / "checked.csv").touch()
    assert missing_file(recipe) is None


def test_a_split_of_trusted_pairs_is_looked_for(corpora):
    recipe = with_data_in(load_recipe(SHIPPED / "mscn_sgr_cc152k_natural.toml"), corpora / "images")
    assert missing_file(recipe) is None
    other = replace(recipe, trusted=TrustedConfig(source="split", split="checked"))
    assert missing_file(other) == ("trusted.split", corpora / "images" / "cc152k_precomp" / "checked_ims.npy")


def test_a_folder_of_flickr8k_needs_no_region_features_and_the_demo_no_file(tmp_path, monkeypatch):
    (tmp_path / "Flickr8k.token.txt").touch()
    assert missing_file(Recipe(data=DataConfig(path=str(tmp_path)))) is None
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert missing_file(Recipe()) is None


def test_a_recipe_without_a_published_number_stands_alone(corpora, tmp_path):
    summary = rehearsed("baseline_vse_f30k_40", corpora / "images", tmp_path)
    assert (summary["published"], summary["difference"], summary["source"]) == (None, None, None)
    assert summary["ours"]["rsum"]["sd"] is None


def test_all_networks_of_a_method_are_counted_and_the_notes_of_every_run_told_once(twins, corpora, tmp_path):
    summary = rehearsed("baseline_vse_f30k_40", corpora / "images", tmp_path, (0, 1))
    assert "; mean similarity of 2 networks (cosine); checkpoint" in summary["protocol"]
    assert [note for note in summary["notes"] if note.endswith(", twice")] == ["400 pairs, twice"]


def test_rehearsing_reads_the_same_files_as_the_recipe():
    recipe = load_recipe(SHIPPED / "crcl_sgraf_f30k_40.toml")
    small = rehearsal(recipe)
    assert (small.data, small.noise, small.training) == (recipe.data, recipe.noise, recipe.training)
    assert small.method.epochs == 1
    assert small.model.similarity_size < recipe.model.similarity_size


@pytest.mark.parametrize("name", ["mscn_sgr_f30k_20", "mscn_sgr_coco_50", "mscn_sgr_cc152k_natural"])
def test_mscn_takes_its_trusted_pairs_from_where_each_corpus_has_them(corpora, tmp_path, name):
    summary = rehearsed(name, corpora / "images", tmp_path)
    run = summary["runs"][0]["members"]["sgr"]
    count, train = {"f30k": (7, 400), "coco": (8, 400 - 8 * 5), "cc152k": (10, 400)}[name.split("_")[2]]
    assert (run["pairs"]["trusted"], run["pairs"]["train"]) == (count, train)
    assert f"{count} trusted pairs" in " ".join(summary["notes"])
    assert "mean similarity of 2 networks (sgr)" in summary["protocol"]


def test_a_published_noise_index_gives_its_own_rate(corpora, tmp_path):
    """As in a recipe that names noise.index in place of a rate."""
    data = corpora / "images"
    recipe = load_recipe(SHIPPED / "baseline_vse_f30k_40.toml")
    index = NoiseConfig(index="data/noise_index/f30k_precomp_0.4_per_image.npy", index_convention="per_image")
    recipe = rehearsal(with_data_in(replace(recipe, noise=index), data))
    recipe = replace(recipe, training=replace(recipe.training, device="cpu"))
    summary = reproduce(RecipeFile(recipe), tmp_path / "mine", (0,))
    assert summary["realised_noise_rate"] == pytest.approx(0.4)
    assert summary["realised_noise_level"] == {"level": "image", "moved_together": 1.0}
    assert summary["warnings"] == [], "there is no row to compare with"
    train = load_corpus(recipe.data).splits.train
    assert summary["runs"][0]["members"]["cosine"]["pairs"]["train"] == len(train)


def test_an_index_replaces_the_noise_and_the_row_keeps_its_rate():
    file = load_recipe_file(SHIPPED / "crcl_vse_f30k_80.toml")
    noisy = with_noise_index(file, Path("index.npy"), "per_image")
    assert noisy.recipe == replace(file.recipe, noise=NoiseConfig(index="index.npy", index_convention="per_image"))
    assert noisy.published == replace(file.published, noise_rate=0.8)
    assert with_noise_index(noisy, Path("other.npy"), "per_caption").published == noisy.published
    assert (
        with_noise_index(load_recipe_file(SHIPPED / "crcl_vse_f30k_40.toml"), Path("i.npy"), "per_image").published
        is None
    )


def test_noise_that_is_not_that_of_the_row_is_warned_of(corpora, tmp_path):
    file = load_recipe_file(SHIPPED / "crcl_vse_f30k_80.toml")
    recipe = rehearsal(with_data_in(file.recipe, corpora / "images"))
    file = replace(file, recipe=replace(recipe, training=replace(recipe.training, device="cpu")))
    same = reproduce(file, tmp_path / "mine", (0,))
    assert same["realised_noise_level"]["level"] == "caption"
    assert same["warnings"] == []

    def warnings(**row):
        """Of the run that is done, beside another row."""
        return reproduce(replace(file, published=replace(file.published, **row)), tmp_path / "mine", (0,))["warnings"]

    (level,) = warnings(noise_level="image")
    assert level.startswith("this run has caption-level noise (caption level: 0.0% of the images that lost captions")
    assert level.endswith("but the row was measured with image-level noise: the numbers are not comparable")
    assert warnings(noise_level=None) == []
    assert warnings(noise_rate=0.795) == []
    (rate,) = warnings(noise_rate=0.5)
    assert rate.startswith("80.00% of the training captions were mismatched here, but 50% for the published row")

    results = tmp_path / "mine" / "cosine_0" / "results.json"
    values = json.loads(results.read_text())
    assert values.pop("realised_noise_level") == same["realised_noise_level"]
    results.write_text(json.dumps(values), encoding="utf-8")  # as earlier versions wrote it
    assert warnings(noise_level="image") == []


def test_an_ensemble_of_runs_that_do_not_tell_their_level_is_not_tested_again(corpora, sgraf_on_coco, tmp_path):
    folder = tmp_path / "crcl_sgraf_coco_40"
    shutil.copytree(sgraf_on_coco[0], folder)
    ensemble = json.loads((folder / "ensemble_0.json").read_text())
    for name in ("saf", "sgr"):
        results = folder / f"{name}_0" / "results.json"
        values = json.loads(results.read_text())
        del values["realised_noise_level"], ensemble["members"][name]["realised_noise_level"]
        results.write_text(json.dumps(values), encoding="utf-8")
    (folder / "ensemble_0.json").write_text(json.dumps(ensemble), encoding="utf-8")
    before = times(tmp_path)
    assert rehearsed("crcl_sgraf_coco_40", corpora / "images", tmp_path)["ours"] == sgraf_on_coco[1]["ours"]
    assert times(tmp_path) == before


@pytest.mark.parametrize("method", ["baseline", "crcl", "teacher"])
def test_clip_is_trained_on_karpathys_splits(tmp_path, method):
    pytest.importorskip("transformers", reason="needs the extra hf")
    pictures = tmp_path / "f30k" / "flickr30k-images"
    table = write_photographs(pictures, images=24)
    split_of = {"train": "train", "dev": "val", "test": "test"}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [
        {
            "filename": name,
            "split": split_of[next(row["split"] for row in rows if row["image"] == name)],
            "sentences": [
                {"raw": row["caption"], "sentid": place} for place, row in enumerate(rows) if row["image"] == name
            ],
        }
        for name in dict.fromkeys(row["image"] for row in rows)
    ]
    (tmp_path / "f30k" / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    recipe = rehearsal(with_data_in(load_recipe(SHIPPED / f"{method}_clip_f30k_40.toml"), tmp_path))
    network = save_clip(tmp_path / "clip")
    model = replace(recipe.model, image_encoder=network, text_encoder=network)
    here = replace(recipe.training, device="cpu", precision="32-true", workers=0, batch_size=8)
    summary = reproduce(RecipeFile(replace(recipe, model=model, training=here)), tmp_path / "out", (0,))
    assert summary["runs"][0]["members"]["cosine"]["pairs"] == {"train": 32, "dev": 8, "test": 8, "trusted": None}
