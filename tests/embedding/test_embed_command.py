import json
import os
from dataclasses import replace

import pytest
from embedding_samples import encoded, picture

from truepair.cli.embed import embed_lines
from truepair.cli.main import main
from truepair.config.embedding import EmbedConfig
from truepair.config.source import SourceConfig
from truepair.embedding.run import embed
from truepair.errors import ConfigError


def test_a_table_becomes_a_folder_of_features(tmp_path, clip_folder, capsys):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    (tmp_path / "2.png").write_bytes(b"broken")
    (tmp_path / "t.tsv").write_text("file\ttitle\n" + "".join(f"{n}.png\ta red dog\n" for n in range(4)))
    columns = ["--image-col", "file", "--caption-col", "title"]
    networks = ["--image-encoder", clip_folder, "--text-encoder", clip_folder, "--device", "cpu"]
    out = tmp_path / "features"
    assert main(["embed", str(tmp_path / "t.tsv"), "--out", str(out), *columns, *networks]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 images, 3 captions, ")
    assert said[1] == f"left out: unreadable picture (1); see {out / 'skipped.csv'}"
    assert said[2] == f"features: {out}; next: truepair audit {out} --out audit/"
    assert main(["embed", str(tmp_path / "t.tsv"), "--out", str(out), *columns, *networks, "--grid", "2"]) == 1
    assert "holds features with grid None, but 2 was asked for" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["image", "image_id", "caption_id"])
def test_a_row_that_spells_half_of_a_surrogate_pair_is_left_out(column, tmp_path, config):
    rows = [{"image": f"{n}.png", "caption": "a red dog", "image_id": f"i{n}", "caption_id": f"c{n}"} for n in range(3)]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    rows[1][column] = "\ud83d"
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = SourceConfig(**({} if column == "image" else {f"{column}_col": column}))
    summary = embed(str(tmp_path / "t.jsonl"), tmp_path / "out", replace(config, source=columns))
    assert (summary["images"], summary["captions"], sum(summary["skipped"].values())) == (2, 2, 1)
    assert r"\ud83d" in (tmp_path / "out" / "skipped.csv").read_text(encoding="utf-8")


def test_a_path_whose_letters_are_not_utf8_is_left_out_also_where_such_a_file_is(tmp_path, config):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(encoded(picture(0)))
    (tmp_path / "1.png").write_bytes(encoded(picture(1)))
    rows = [{"image": image, "caption": "a red dog"} for image in (name, "1.png")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = embed(str(tmp_path / "t.jsonl"), tmp_path / "out", config)
    assert (summary["images"], summary["skipped"]) == (1, {"picture is not a path": 1})


def test_cut_captions_are_told(tmp_path):
    summary = {"images": 1234, "captions": 2000, "images_per_second": 80.5, "skipped": {}, "cut_captions": 12}
    lines = embed_lines(summary | {"text_encoder": {"maximum_tokens": 64}}, tmp_path)
    assert lines.splitlines()[:2] == [
        "1,234 images, 2,000 captions, 80.5 images/s",
        "12 captions are longer than 64 tokens and were cut",
    ]


@pytest.mark.parametrize("option", ["grid", "batch_size", "workers"])
def test_counts_below_one_are_refused(option):
    with pytest.raises(ConfigError, match=f"{option} is 0, but it must be at least 1"):
        EmbedConfig(**{option: 0})


def test_columns_are_found_by_their_usual_names_and_said(tmp_path, clip_folder):
    (tmp_path / "0.png").write_bytes(encoded(picture(0)))
    (tmp_path / "t.csv").write_text("filepath;title\n0.png;a red dog\n")
    networks = ["--image-encoder", clip_folder, "--text-encoder", clip_folder, "--device", "cpu"]
    assert main(["embed", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), *networks]) == 0
    assert json.loads((tmp_path / "out" / "embeddings.json").read_text())["notes"] == [
        f"{tmp_path / 't.csv'} has a semicolon between its cells (--delimiter for another)",
        "pictures are read from the column 'filepath' (--image-col for another)",
        "captions are read from the column 'title' (--caption-col for another)",
    ]


def test_what_is_wrong_with_all_pictures_is_said_before_an_encoder_is_loaded(tmp_path, capsys):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "0.png").write_bytes(encoded(picture(0)))
    (tmp_path / "t.csv").write_text("image,caption\n0.png,a red dog\n")
    command = ["embed", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--image-encoder", "no/such-network"]
    assert main(command) == 1
    assert f"it is there from another folder on: --image-root {tmp_path / 'pics'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--image-root", str(tmp_path / "pics")]) == 1
    assert "no/such-network cannot be loaded" in capsys.readouterr().err.replace("'", "")
