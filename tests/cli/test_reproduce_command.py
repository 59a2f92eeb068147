import runpy
from pathlib import Path

import pytest

from truepair.cli.main import main
from truepair.cli.reproduce import comparison

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "crcl_vse_f30k_80.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    runpy.run_path(str(ROOT / "tools" / "miniature_corpora.py"))["write_miniatures"](folder)
    return folder


def test_a_rehearsal_of_a_real_recipe_runs_says_so_and_keeps_apart(data, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["reproduce", str(RECIPE), "--data", str(data), "--out", str(out), "--seeds", "0", "1"]
    assert main([*command, "--rehearse", "--accelerator", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("REHEARSAL, the numbers mean nothing: crcl_vse_f30k_80\n")
    assert "412.2" in shown
    assert "+" not in shown  # no difference where the numbers mean nothing
    assert [path.name for path in out.iterdir()] == ["rehearsal"]
    folder = out / "rehearsal" / "crcl_vse_f30k_80"
    assert {path.name for path in folder.iterdir()} == {"cosine_0", "cosine_1", "reproduction.json"}
    assert main([*command, "--rehearse", "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("missing", "option"), [("f30k_precomp", "data.path"), ("vocab/f30k_precomp_vocab.json", "data.vocabulary")]
)
def test_a_file_that_is_missing_is_named_before_anything_is_trained(missing, option, data, tmp_path, capsys):
    copy = tmp_path / "data"
    for name in {"f30k_precomp", "vocab/f30k_precomp_vocab.json"} - {missing}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to(data / name)
    demo = ROOT / "recipes" / "crcl_cosine_demo_40.toml"
    command = ["reproduce", str(demo), str(RECIPE), "--data", str(copy), "--out", str(tmp_path / "out")]
    assert main([*command, "--rehearse"]) == 1
    shown = capsys.readouterr().err
    assert f"{option} '{copy / missing}' does not exist; name the folder that holds the corpora with --data" in shown
    assert not (tmp_path / "out").exists()


def test_no_recipe_is_an_error(capsys):
    assert main(["reproduce"]) == 1
    assert "name at least one recipe" in capsys.readouterr().err


MEASURES = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)] + ["rsum"]
SUMMARY = {
    "seeds": [0, 1],
    "protocol": "f30k_precomp, test split",
    "realised_noise_rate": 0.4,
    "ours": {measure: {"mean": 70.04 + place, "sd": 0.25} for place, measure in enumerate(MEASURES)},
    "published": dict.fromkeys(MEASURES, 71.0),
    "difference": {measure: place - 0.96 for place, measure in enumerate(MEASURES)},
    "source": "a paper",
    "note": "read twice",
    "known_differences": ["features", "ties"],
}


def test_the_comparison_has_ours_published_and_difference_and_what_they_depend_on():
    lines = comparison("mine", SUMMARY).splitlines()
    assert lines[0] == "mine"
    assert lines[1].split() == ["ours", "published", "difference"]
    assert lines[2].split() == ["i2t", "R@1", "70.0", "±", "0.2", "71.0", "-1.0"]
    assert lines[8].split() == ["rSum", "76.0", "±", "0.2", "71.0", "+5.0"]
    assert lines[9:] == [
        "seeds: 0, 1 (mean ± standard deviation)",
        "mismatched training captions: 40.00%, put in",
        "protocol: f30k_precomp, test split",
        "published: a paper",
        "note: read twice",
        "may differ: features",
        "may differ: ties",
    ]


def test_one_seed_has_no_deviation_and_an_unpublished_recipe_nothing_beside_it():
    alone = {measure: {"mean": 70.04, "sd": None} for measure in MEASURES}
    nothing = {"published": None, "difference": None, "source": None, "note": None, "realised_noise_rate": None}
    lines = comparison("mine", SUMMARY | nothing | {"ours": alone, "seeds": [4]}).splitlines()
    assert lines[2].split() == ["i2t", "R@1", "70.0", "-", "-"]
    assert lines[9:13] == [
        "seeds: 4",
        "mismatched training captions: not known, none put in",
        "protocol: f30k_precomp, test split",
        "published: no number in the recipe",
    ]
