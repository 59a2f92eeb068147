import pytest
import torch

from html_page import Page
from truepair.audit.charts import calibration_chart, cut_chart, learning_curves, score_histogram
from truepair.evaluation.detection import calibration_curve


@pytest.fixture(scope="module")
def html(audited):
    return (audited.out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_report_loads_nothing_and_runs_nothing(page):
    assert page.loads
    assert all(value.startswith(("data:image/webp;base64,", "#")) for value in page.loads)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not page.handlers
    assert page.open == []  # everything that was opened is closed


def test_captions_are_shown_as_text_never_as_markup(audited, html, page):
    assert audited.evil not in html
    assert "&lt;script src=" in html
    assert audited.evil in "".join(page.text)


def test_every_card_shows_its_picture_with_alternative_text(html, page):
    cards = html.count('<li class="card')
    assert cards == 30
    present = [image for image in page.images if image["alt"].startswith("present picture: pictures/")]
    assert len(present) == cards
    assert all(image["alt"] for image in page.images)


def test_charts_are_svg_with_a_text_for_those_who_do_not_see_them(html, page):
    assert page.tags.count("svg") == html.count('<svg role="img" aria-label="')
    assert page.tags.count("svg") >= 1


def test_the_headline_and_the_files_are_named(audited, page):
    text = "".join(page.text)
    assert f"About {audited.summary['estimated_mismatches']:.0f} of 300 pairs" in text
    for name in ("findings.parquet", "summary.json"):
        assert name in text


def test_the_report_stays_small(audited):
    assert (audited.out / "report.html").stat().st_size < 1_000_000


def test_without_pictures_names_are_shown_and_with_the_truth_mistakes_are_marked_in_words(measured):
    html = (measured[0] / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.images
    assert '<span class="name">image ' in html
    marked = html.count('<li class="card injected">')
    assert marked > 10
    assert html.count('<span class="badge wrong">✗ put in</span>') == marked + 1  # and once where it is explained
    assert "AUROC" in html
    assert "Calibration curve" in html


def test_the_same_numbers_make_the_same_chart(noisy_world):
    scores = torch.randn(240, generator=torch.Generator().manual_seed(0))
    charts = [score_histogram(scores, scores - 1, scores.sigmoid(), noisy_world.is_clean) for _ in range(2)]
    assert charts[0] == charts[1]
    assert "<metadata>" not in charts[0]
    assert "truly mismatched" in charts[0]  # text, not outlines
    assert "expected mismatched" in score_histogram(scores, scores - 1, scores.sigmoid(), None)
    assert cut_chart(scores.sigmoid(), 0.5, noisy_world.is_clean).startswith(
        '<svg role="img" aria-label="Expected good'
    )
    curve = calibration_curve(scores.sigmoid(), noisy_world.is_clean)
    assert calibration_chart(curve).startswith('<svg role="img" aria-label="Calibration curve')


def test_learning_curves_need_a_finished_epoch():
    recalls = {f"{d}_r{k}": 10.0 for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    steps = {"kind": "steps", "epoch": 0, "steps": 5, "loss": 1.5}
    assert learning_curves([steps]) is None
    chart = learning_curves([steps, {"kind": "epoch", "epoch": 0, **recalls}])
    assert chart is not None
    assert "training loss" in chart
