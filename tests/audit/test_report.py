import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from html_page import Page

from truepair.audit.charts import calibration_chart, cut_chart, learning_curves, score_histogram
from truepair.audit.findings import Findings
from truepair.audit.issues import Issue
from truepair.audit.partners import Partners
from truepair.audit.report import write_report
from truepair.evaluation.detection import calibration_curve
from truepair.scoring.log_odds import Scores


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
    assert cards > 15  # half of 30 are the surest; the others are borderline
    present = [image for image in page.images if image["alt"].startswith("present image: pictures/")]
    assert len(present) == cards
    assert all(image["alt"] for image in page.images)


def test_charts_are_svg_with_a_text_for_those_who_do_not_see_them(html, page):
    assert page.tags.count("svg") == html.count('<svg role="img" aria-label="')
    assert page.tags.count("svg") >= 1


def test_the_headline_and_the_files_are_named(audited, page):
    text = "".join(page.text)
    assert f"About {audited.summary.estimated_mismatches:.0f} of 300 pairs" in text
    for name in ("findings.parquet", "summary.json"):
        assert name in text


def test_the_next_commands_name_the_folder_of_the_audit(audited, page):
    text = "".join(page.text)
    assert f"truepair review {audited.out}\n" in text
    assert f"truepair fix {audited.out} --out cleaned/\n" in text


def test_the_surest_are_the_first_of_the_findings_and_the_borderline_ones_a_sample_in_order(audited, html):
    probability = pq.read_table(audited.out / "findings.parquet")["mismatch_probability"].to_pylist()
    surest, _, rest = html.partition("Borderline pairs, where looking pays")
    borderline = rest.partition("What looks right")[0]
    shown, sampled = (
        [int(rank) for rank in re.findall(r'class="head"><span>(\d+)<', part)] for part in (surest, borderline)
    )
    assert shown == list(range(1, 16))
    candidates = [rank for rank, p in enumerate(probability, start=1) if 0.3 <= p <= 0.7 and rank > 15]
    assert sampled == sorted(sampled)
    assert set(sampled) <= set(candidates)
    assert len(sampled) == min(15, len(candidates)) > 0


def test_what_looks_right_is_a_sample_of_pairs_that_are_no_suspects(audited, html):
    rows = pq.read_table(audited.out / "findings.parquet").to_pylist()
    sample = html.partition("What looks right")[2].partition("Where to cut")[0]
    names = re.findall(r"<code>(pictures/[^<]+)</code>", sample)
    assert len(names) == 14
    fine = [row["image_id"] for row in rows if not row["is_suspect"]]
    assert set(names) <= set(fine)
    assert set(names) != set(fine[-14:])  # not the surest of them


def test_names_are_whole_and_can_be_chosen_as_text(page):
    assert page.tags.count("details") > 30
    assert "pictures/7.png" in page.text or "pictures/8.png" in page.text


def write(findings, issues, summary, path):
    write_report(findings, issues, summary.as_dict(), path, folder=path.parent, log=[], cards=30, seed=0)
    return path.read_text(encoding="utf-8")


def test_duplicates_stand_together_in_one_frame(noisy_world, measured, tmp_path):
    findings = found(noisy_world)
    names = noisy_world.image_ids
    issues = [Issue("duplicate", names[image], None, image // 3, "3 files, 3 different captions") for image in range(6)]
    html = write(findings, issues, measured[1], tmp_path / "report.html")
    frames = html.split('<div class="group">')[1:]
    assert len(frames) == 2
    for frame, images in zip(frames, ((0, 1, 2), (3, 4, 5)), strict=True):
        assert [f"<code>{names[image]}</code>" in frame for image in range(6)] == [
            image in images for image in range(6)
        ]


def test_where_nothing_is_known_the_report_says_so_and_draws_no_conclusion(noisy_world, measured, tmp_path):
    findings = found(noisy_world, known=False)
    warning = "nothing consistent was learned: audit more pairs"
    nothing = dict.fromkeys(("estimated_mismatches", "estimated_noise_rate", "noise_rate_interval", "truth", "finds"))
    summary = replace(measured[1], **nothing, suspects=0, warnings=[warning])
    html = write(findings, [], summary, tmp_path / "report.html")
    text = "".join(Page(html).text)
    assert "It cannot be said which of the 240 pairs do not match" in text
    assert "Nothing consistent was learned: audit more pairs." in text
    assert "Where to cut" not in text
    assert "surest" not in text
    assert "Calibration" not in text
    assert "The least plausible pairs" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert '<li class="card' not in html


def found(pairs, known=True):
    """Findings without partners, whose probabilities are spread over [0, 1], or unknown."""
    count = len(pairs.captions)
    probability = torch.linspace(1, 0, count) if known else torch.full((count,), torch.nan)
    log_odds = torch.linspace(-3, 3, count)
    scores = Scores(log_odds / 3, log_odds, log_odds - 2)
    return Findings(pairs, probability, 0.5, 0.5, scores, torch.arange(count), Partners.none(count))


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
    assert f"{marked_in(html, 'The surest', 'Borderline')} of the 15 shown here" in html
    assert "AUROC" in html
    assert "Calibration curve" in html


def marked_in(html, start, end):
    return html.partition(start)[2].partition(end)[0].count('<li class="card injected">')


def test_charts_follow_the_colours_of_the_page(noisy_world):
    scores = torch.randn(240, generator=torch.Generator().manual_seed(0))
    chart = score_histogram(scores, scores - 1, scores.sigmoid(), noisy_world.is_clean)
    colours = set(re.findall(r"(.{12})#[0-9a-f]{6}", chart))
    assert colours
    assert all(before.endswith((", ", "white")) and "--" in before for before in colours), colours


def test_equal_scores_and_unknown_probabilities_can_be_drawn():
    scores = torch.zeros(240)
    chart = score_histogram(scores, scores, scores * torch.nan, None)
    assert "if all pairs were random" in chart
    assert "mismatched" not in chart.partition(">")[2]


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
