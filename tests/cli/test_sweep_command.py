"""``truepair sweep`` and ``truepair figures`` on the command line."""

import json

from truepair.cli.main import main

SMALL = [
    "--model.embedding",
    "8",
    "--model.words",
    "mean",
    "--method.epochs",
    "1",
    "--batch-size",
    "512",
    "--device",
    "cpu",
]


def test_a_sweep_prints_the_best_first_and_its_folder_can_be_drawn(tmp_path, capsys):
    out = tmp_path / "sweep"
    command = ["sweep", "--out", str(out), "--method.name", "baseline", "--noise.rate", "0.4", *SMALL, "--quiet"]
    assert main([*command, "--vary", "method.temperature=0.05,0.5", "--vary", "method.loss=info_nce"]) == 0
    head, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.split() == ["temperature", "loss", "dev", "rSum", "test", "rSum", "AUROC", "seeds"]
    best = [float(line.split()[2]) for line in lines]
    assert (len(best), best) == (2, sorted(best, reverse=True))
    assert main(["figures", str(out), "--out", str(tmp_path / "figures"), "--pairs", "0", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "option_1_baseline_temperature" in found["figures"]
    assert (tmp_path / "figures" / "figures.html").exists()


def test_what_cannot_be_swept_or_drawn_is_one_line_and_exit_code_1(tmp_path, capsys):
    varied = ["--vary", "method.name=mscn,baseline"]
    for command, told in (
        (["sweep", "demo", "--out", str(tmp_path / "a"), "--vary", "method.tau=1"], "unknown option method.tau"),
        (["sweep", "demo", "--out", str(tmp_path / "a")], "name an option to vary"),
        (
            ["sweep", "demo", "--out", str(tmp_path / "a"), "--noise.seed", "7"],
            "--noise.seed is of one run, but a sweep",
        ),
        (["sweep", "demo", "--out", str(tmp_path / "a"), "--seed=7"], "--seed is of one run, but a sweep"),
        (
            ["sweep", "demo", "--out", f"{tmp_path}/a", "--devices", "2", "--vary", "noise.rate=0,0.2"],
            "training.devices is 2 and training.nodes 1, but the runs of a sweep have a device each",
        ),
        (
            ["sweep", "demo", "--out", str(tmp_path / "a"), "--method.epochs=2", "--vary", "method.name=teacher,mscn"],
            "--method.epochs is given, but method.name mscn has no such option",
        ),
        (
            ["sweep", "demo", "--out", f"{tmp_path}/a", "--method.name=mscn", "--method.no-purify", *varied],
            "--method.purify is given, but method.name baseline has no such option",
        ),
        (["figures", str(tmp_path), "--out", str(tmp_path / "b")], "there is no run in"),
        (["figures", "--pairs", "1", "--out", str(tmp_path / "b")], "--pairs is 1"),
    ):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert told in err
    assert not any(tmp_path.iterdir())
