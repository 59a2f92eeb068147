import json
import runpy
import shutil
from pathlib import Path

import pytest

from truepair.cli.main import main
from truepair.cli.reproduce import comparison
from truepair.errors import TrainingError
from truepair.training import reproduce as training
from truepair.training.recipe import SHIPPED
from truepair.training.reproduce import reproduce

ROOT = Path(__file__).parents[2]
RECIPE = SHIPPED / "crcl_vse_f30k_80.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    runpy.run_path(str(ROOT / "tools" / "miniature_corpora.py"))["write_miniatures"](folder)
    return folder


def test_a_rehearsal_of_a_real_recipe_runs_says_so_and_keeps_apart(data, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["reproduce", str(RECIPE), "--data", str(data), "--out", str(out)]
    assert main([*command, "--rehearse", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("REHEARSAL, the numbers mean nothing: crcl_vse_f30k_80\n")
    assert "412.2" in shown
    assert "+" not in shown  # no difference where the numbers mean nothing
    assert [path.name for path in out.iterdir()] == ["rehearsal"]
    folder = out / "rehearsal" / "crcl_vse_f30k_80"
    assert {path.name for path in folder.iterdir()} == {"cosine_0", "reproduction.json"}, "one seed is enough"
    assert "note: data.development is 'first_1000_images', but there are only 20: all are used\n" in shown
    assert "may differ: data.development" not in shown
    assert main([*command, "--rehearse", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == shown


def test_an_index_for_all_recipes_is_refused_where_its_noise_is_not_that_of_the_row_or_labelled(data, tmp_path, capsys):
    command = ["reproduce", "crcl_vse_f30k_80", "baseline_vse_f30k_40", "--data", str(data), "--rehearse"]
    command += ["--device", "cpu", "--noise.index-convention", "per_image"]
    command += ["--noise.index", str(data / "noise_index" / "f30k_precomp_0.4_per_image.npy")]
    assert main([*command, "--out", str(tmp_path)]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("truepair: error: crcl_vse_f30k_80: 40.00% of the training captions were mismatched here, ")
    assert error.endswith("With --compare-anyway they are compared, and labelled")
    assert not any(tmp_path.iterdir())

    command.append("--compare-anyway")
    assert main([*command, "--out", str(tmp_path)]) == 0
    shown, _, other = capsys.readouterr().out.partition("baseline_vse_f30k_40\n")
    level = "image level: 100.0% of the images that lost captions lost all of them to one image"
    for part in (shown, other):
        assert f"mismatched training captions: 40.00%, put in ({level})\n" in part
    assert [line for line in shown.splitlines() if line.startswith("warning: ")] == [
        "warning: 40.00% of the training captions were mismatched here, but 80% for the published row: the numbers are "
        "not comparable",
        f"warning: this index holds image-level noise ({level}), but the row was measured with caption-level noise: "
        "the numbers are not comparable",
    ]
    assert "warning: " not in other, "there is no row"
    assert shown.splitlines()[1].split() == ["REHEARSAL", "published", "NOT", "COMPARABLE"]

    assert main([*command, "--out", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["recipes"]["crcl_vse_f30k_80"]
    assert summary["realised_noise_level"] == {"level": "image", "moved_together": 1.0}
    assert [f"warning: {line}" in shown for line in summary["warnings"]] == [True, True]
    assert summary["recipe"]["noise"]["rate"] == 0


@pytest.mark.parametrize(
    ("recipe", "index", "told"),
    [
        ("baseline_vse_f30k_40", "f30k_precomp_0.4_per_image", "f30k_precomp_0.4_per_image.npy has 80 entries, but"),
        ("baseline_saf_cc152k_natural", "nothing", "nothing.npy: No such file or directory"),
        ("mscn_sgr_coco_20", "coco_precomp_0.4_per_caption", "noise.index numbers all training pairs, but trusted.sou"),
    ],
)
def test_an_index_that_does_not_fit_one_of_the_recipes_is_refused_first(recipe, index, told, data, tmp_path, capsys):
    command = ["reproduce", recipe, "crcl_vse_f30k_80", "--data", str(data), "--rehearse", "--out", str(tmp_path / "o")]
    assert main([*command, "--noise.index", str(data / "noise_index" / f"{index}.npy")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"truepair: error: {recipe}: ")
    assert told in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("missing", "option"),
    [
        ("f30k_precomp", "data.path"),
        ("f30k_precomp/dev_ims.npy", "data.path"),
        ("vocab/f30k_precomp_vocab.json", "data.vocabulary"),
        ("noise_index/f30k_precomp_0.4_per_caption.npy", "noise.index"),
    ],
)
def test_a_file_that_is_missing_is_named_before_anything_is_trained(missing, option, data, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    gone = copy / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    mine = tmp_path / "mine.toml"
    index = 'index = "data/noise_index/f30k_precomp_0.4_per_caption.npy"'
    mine.write_text(RECIPE.read_text(encoding="utf-8").replace("rate = 0.8", index), encoding="utf-8")
    demo = SHIPPED / "crcl_cosine_demo_40.toml"
    command = ["reproduce", str(demo), str(mine), "--data", str(copy), "--out", str(tmp_path / "out")]
    assert main([*command, "--rehearse"]) == 1
    shown = capsys.readouterr().err
    assert f"mine: {option} '{gone}' does not exist; name the folder that holds the corpora with --data" in shown
    assert not (tmp_path / "out").exists()


def test_two_recipes_of_one_name_are_refused(tmp_path, capsys):
    (tmp_path / RECIPE.name).write_bytes(RECIPE.read_bytes())
    assert main(["reproduce", str(RECIPE), str(tmp_path / RECIPE.name)]) == 1
    assert "error: 2 recipes are called crcl_vse_f30k_80, and would share a folder" in capsys.readouterr().err
    assert main(["reproduce", str(RECIPE), str(RECIPE)]) == 1


def test_a_bad_seed_or_output_is_refused_before_anything_is_trained(data, tmp_path, capsys):
    command = ["reproduce", str(RECIPE), "--data", str(data), "--rehearse"]
    assert main([*command, "--out", str(tmp_path / "out"), "--seeds", "0", "-1"]) == 1
    assert "noise.seed is -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert main([*command, "--out", str(tmp_path / "file")]) == 1
    assert f"error: cannot make the folder {tmp_path / 'file'}" in capsys.readouterr().err


def test_no_recipe_is_an_error(capsys):
    assert main(["reproduce"]) == 1
    assert "name at least one recipe" in capsys.readouterr().err


MEASURES = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)] + ["rsum"]
SUMMARY = {
    "seeds": [0, 1],
    "protocol": "f30k_precomp, test split",
    "realised_noise_rate": 0.4,
    "realised_noise_level": {"level": "image", "moved_together": 1.0},
    "warnings": ["the numbers are not comparable"],
    "ours": {measure: {"mean": 70.04 + place, "sd": 0.25} for place, measure in enumerate(MEASURES)},
    "published": dict.fromkeys(MEASURES, 71.0),
    "difference": {measure: place - 0.96 for place, measure in enumerate(MEASURES)},
    "source": "a paper",
    "notes": ["read twice", "all are used"],
    "known_differences": ["features", "ties"],
}


def test_the_comparison_has_ours_published_and_difference_and_what_they_depend_on():
    lines = comparison("mine", SUMMARY).splitlines()
    assert lines[0] == "mine"
    assert lines[1].split() == ["ours", "published", "NOT", "COMPARABLE"]
    assert comparison("mine", SUMMARY | {"warnings": []}).splitlines()[1].split() == ["ours", "published", "difference"]
    assert lines[2].split() == ["i2t", "R@1", "70.0", "±", "0.2", "71.0", "-1.0"]
    assert lines[8].split() == ["rSum", "76.0", "±", "0.2", "71.0", "+5.0"]
    assert lines[9:] == [
        "seeds: 0, 1 (mean ± standard deviation)",
        "mismatched training captions: 40.00%, put in "
        "(image level: 100.0% of the images that lost captions lost all of them to one image)",
        "warning: the numbers are not comparable",
        "protocol: f30k_precomp, test split",
        "published: a paper",
        "note: read twice",
        "note: all are used",
        "may differ: features",
        "may differ: ties",
    ]


def test_one_seed_has_no_deviation_and_an_unpublished_recipe_nothing_beside_it():
    alone = {measure: {"mean": 70.04, "sd": None} for measure in MEASURES}
    nothing = {"published": None, "difference": None, "source": None, "notes": [], "warnings": []}
    nothing |= {"realised_noise_rate": None, "realised_noise_level": None}
    lines = comparison("mine", SUMMARY | nothing | {"ours": alone, "seeds": [4]}).splitlines()
    assert lines[2].split() == ["i2t", "R@1", "70.0", "-", "-"]
    assert lines[9:13] == [
        "seeds: 4",
        "mismatched training captions: not known, none put in",
        "protocol: f30k_precomp, test split",
        "published: no number in the recipe",
    ]


def test_a_set_is_a_table_whose_rows_go_on_where_one_fails(data, tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "Two rows"\nrows = [\n  { name = "as it is", recipe = "crcl_vse_f30k_40" },\n'
        '  { name = "without SCC", recipe = "crcl_vse_f30k_40", options = { "method.refine" = false } },\n]\n'
    )
    command = [
        "reproduce",
        str(path),
        "--data",
        str(data),
        "--rehearse",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "o"),
    ]

    def failing(file, folder, seeds):
        if folder.name == "as_it_is":
            raise TrainingError("it diverged")
        return reproduce(file, folder, seeds)

    with monkeypatch.context() as patched:
        patched.setattr(training, "reproduce", failing)
        assert main(command) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 recipes failed: mine/as_it_is" in err
    assert "| as it is | – |" in out
    assert main(command) == 0
    out = capsys.readouterr().out
    table = (tmp_path / "o" / "rehearsal" / "mine" / "table.md").read_text()
    assert table in out
    assert table.startswith("REHEARSAL, the numbers mean nothing: Two rows\n")
    assert [line.split(" | ")[0] for line in table.splitlines()[4:]] == ["| as it is", "| without SCC"]


def test_rows_that_would_share_a_folder_are_refused_first(data, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    rows = ", ".join(f'{{ name = "{name}", recipe = "crcl_vse_f30k_40" }}' for name in ("VSE", "VSE∞"))
    path.write_text(f'title = "mine"\nrows = [{rows}]\n')
    assert main(["reproduce", str(path), "--data", str(data), "--out", str(tmp_path / "o")]) == 1
    assert "two rows would share a folder (mine/vse, mine/vse)" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
