"""The tables of README.md, docs/index.md, docs/results.md and RESULTS.md, from the numbers of the runs.

    python benchmarks/tables.py            # rewrite RESULTS.md, and what stands between marks in the others
    python benchmarks/tables.py --check    # say whether they are what the numbers give

``results/`` holds the numbers: ``ladder.json`` and ``demo.json`` those of finished runs, as ``accuracy.py --collect``
and ``demo_accuracy.py --collect`` wrote them, every other file one table as it was measured (`Result`).
``results/page.md`` is RESULTS.md with the name of a file in place of each table.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truepair.spread import spread as spread_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RUNS = ("ladder", "demo")
MARKED = tuple(HERE.parent / name for name in ("README.md", "docs/index.md", "docs/results.md"))
PAGE, TEMPLATE = HERE / "RESULTS.md", RESULTS / "page.md"

Numbers = Mapping[str, Any]
"""What `accuracy.numbers_of` says of a run."""

RECALLS = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
MAIN = ("plain InfoNCE", "CRCL", "MSCN", "DisNCL", "teacher", "teacher, mean of two runs")
_SMALL = ("100", "300", "1,000", "2,500")
"""Numbers of photographs of the small collections that are shown."""
WITH_WORDS, WITH_SENTENCES = "pooled", "pooled_sentences"


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation over seeds, of those values that are known."""
    return spread_of([value for value in values if value is not None], digits)


def chosen(numbers: Iterable[Numbers], **wanted: Any) -> list[Numbers]:
    """Runs with these backbone, level, system and rate."""
    return [run for run in numbers if all(run[name] == value for name, value in wanted.items())]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(numbers: Sequence[Numbers]) -> str:
    """One row a rate of caption-level noise: rSum of every system, the best one in bold."""
    return ladder_table(numbers, levels=("caption",), has_auroc=False)


def ladder_table(
    numbers: Sequence[Numbers], levels: Sequence[str] = ("caption", "image"), has_auroc: bool = True
) -> str:
    """One row a kind of noise: rSum, and AUROC, of every system, the best rSum in bold."""
    columns = [(WITH_WORDS, system, system) for system in MAIN]
    columns += [(WITH_SENTENCES, "teacher", "teacher, sentence vectors too"), (WITH_WORDS, "plain oracle", "oracle")]
    rows = []
    for level in levels:
        for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
            cells = [chosen(numbers, backbone=b, system=s, level=level, rate=rate) for b, s, _ in columns]
            if rate == 0:
                cells[-1] = cells[0]
            if any(cells):
                what = f"{100 * rate:.0f} %" + ("" if level == "caption" else " of the images")
                rows.append([what, *_in_bold(cells, len(MAIN), has_auroc)])
    return markdown(["captions shuffled", *(title for _, _, title in columns)], rows)


def _in_bold(cells: Sequence[Sequence[Numbers]], compared: int, has_auroc: bool = True) -> list[str]:
    """rSum, and AUROC, of every cell; of the first ones, the best rSum is set in bold."""
    means = [statistics.mean(run["test"]["rsum"] for run in runs) if runs else 0.0 for runs in cells]
    best = max(range(compared), key=means.__getitem__)
    said = []
    for place, runs in enumerate(cells):
        rsum = spread([run["test"]["rsum"] for run in runs], 1)
        is_detector = has_auroc and place < len(cells) - 1
        auroc = spread([run["detection"]["auroc"] for run in runs], 3) if is_detector else "–"
        rsum = f"**{rsum}**" if place == best and runs else rsum
        said.append(rsum if auroc == "–" else f"{rsum} / {auroc}")
    return said


def demo_table(numbers: Sequence[Numbers]) -> str:
    """The table of `truepair demo`, over the seeds that were run."""
    runs = chosen(numbers, backbone="demo", level="caption", rate=0.4)
    rows = []
    for system in ("plain InfoNCE", "CRCL", "MSCN", "DisNCL", "teacher", "plain oracle"):
        of_system = chosen(runs, system=system)
        found = [run["detection"] for run in of_system]
        rates = [None if each["estimated_noise_rate"] is None else 100 * each["estimated_noise_rate"] for each in found]
        row = [system, spread([run["test"]["rsum"] for run in of_system], 1), spread([e["auroc"] for e in found], 3)]
        rows.append([*row, spread([e["expected_calibration_error"] for e in found], 3), spread(rates, 1)])
    return markdown(["demo, 40 % shuffled", "rSum", "AUROC", "calibration error", "estimated rate, %"], rows)


def ladder_tables(numbers: Sequence[Numbers]) -> str:
    """One table a backbone and kind of noise, with all that was measured."""
    tables = []
    for backbone in dict.fromkeys(run["backbone"] for run in numbers):
        for level in ("caption", "image"):
            for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
                of_table = chosen(numbers, backbone=backbone, level=level, rate=rate)
                if of_table:
                    tables += [f"#### {backbone}, {100 * rate:.0f} % noise, {level} level", _full(of_table)]
    return "\n\n".join(tables)


def _full(runs: Sequence[Numbers]) -> str:
    head = "system | seeds | rSum | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | AUROC | AP | calibration error"
    head += " | estimated rate, % | best epoch | CPU s"
    rows = []
    for system in dict.fromkeys(run["system"] for run in runs):
        of_system = chosen(runs, system=system)
        found = [run["detection"] for run in of_system]
        rates = [None if each["estimated_noise_rate"] is None else 100 * each["estimated_noise_rate"] for each in found]
        row = [system, str(len(of_system)), spread([run["test"]["rsum"] for run in of_system], 1)]
        row += [spread([run["test"][name] for run in of_system], 1) for name in RECALLS]
        row += [spread([each[name] for each in found], 3) for name in ("auroc", "average_precision")]
        row += [spread([each["expected_calibration_error"] for each in found], 3), spread(rates, 1)]
        row += [", ".join(str(run["best_epoch"]) for run in of_system)]
        row += [spread([run["cpu_seconds"] for run in of_system], 0)]
        rows.append(row)
    return markdown(head.split(" | "), rows)


def page_ladder(numbers: Sequence[Numbers]) -> str:
    """One row a backbone and kind of noise: rSum / AUROC of every system, and how the default method is calibrated."""
    head = ["backbone", "captions shuffled", *MAIN, "oracle", "teacher: calibration error", "rate, %"]
    rows = []
    for backbone in dict.fromkeys(run["backbone"] for run in numbers):
        for level, rate in sorted({(run["level"], run["rate"]) for run in chosen(numbers, backbone=backbone)}):
            of_row = chosen(numbers, backbone=backbone, level=level, rate=rate)
            cells = [chosen(of_row, system=system) for system in (*MAIN, "plain oracle")]
            found = [run["detection"] for run in chosen(of_row, system="teacher")]
            rates = [100 * each["estimated_noise_rate"] for each in found if each["estimated_noise_rate"] is not None]
            noise = f"{100 * rate:.0f} %" + ("" if level == "caption" else " of the images")
            error = spread([each["expected_calibration_error"] for each in found], 3)
            rows.append([backbone, noise, *_in_bold(cells, len(MAIN)), error, spread(rates, 1)])
    return markdown(head, rows)


@dataclass(frozen=True)
class Result:
    """A file of ``results/``: one table as it was measured, and how."""

    title: str
    columns: Sequence[str]
    """Names of the columns, no two alike."""
    rows: Sequence[Sequence[str]]
    """Cells as they are printed."""
    what: str = ""
    """What was measured, where the title does not say it."""
    command: str = ""
    """What measures it again."""
    code: str = ""
    """The commit; empty where it was not written down."""
    seeds: str = ""
    machine: str = ""
    """Where it differs from what the head of the page says."""

    def cells(self) -> list[dict[str, str]]:
        """Every row by the names of its columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def how(self) -> str:
        """Command, commit, seeds and machine, as far as they are known."""
        said = [f"`{self.command}`" if self.command else "", self.code and f"code {self.code}"]
        said += [self.seeds and f"seeds: {self.seeds}", self.machine]
        return "; ".join(filter(None, said))

    def caption(self) -> str:
        """The line above the table."""
        return f"**{self.title}**" + "".join(f"; {each}" for each in (self.what, self.how()) if each) + "."


def result(name: str) -> Result:
    """The table of ``results/NAME.json``."""
    return Result(**json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def pivoted(cells: Sequence[Mapping[str, str]], rows: Sequence[str], across: Sequence[str], cell: str) -> str:
    """One row for each combination of some columns, one column for each of others, and ``cell`` filled in."""

    def key(each: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
        return tuple(each[name] for name in names)

    said = {(key(each, rows), key(each, across)): cell.format_map(each) for each in cells}
    columns = list(dict.fromkeys(column for _, column in said))
    keys = dict.fromkeys(row for row, _ in said)
    lines = ([*row, *(said.get((row, column), "–") for column in columns)] for row in keys)
    return markdown([*rows, *(", ".join(column) for column in columns)], lines)


def short(*names: str) -> str:
    """Tables of two columns as one; the first row of each says how it was measured."""
    rows = []
    for table in map(result, names):
        for place, (what, measured) in enumerate(table.rows):
            rows.append([*((table.title, table.how()) if place == 0 else ("", "")), what, measured])
    return markdown(["", "what", "measured", "how"], ([title, what, said, how] for title, how, what, said in rows))


def where(table: Result, **wanted: Container[str]) -> list[dict[str, str]]:
    """The rows whose cells of some columns are among those wanted."""
    return [cells for cells in table.cells() if all(cells[name] in among for name, among in wanted.items())]


def detection_table(_: Sequence[Numbers]) -> str:
    """How well an audit finds mismatched pairs: the audits by rate, then small collections at 20 %."""
    rows = [
        (cells["corpus"], cells["AP"], cells["AUROC"], cells["calibration error"], cells["rate, %"])
        for cells in result("audits").cells()
    ]
    for cells in where(result("small_audits"), shuffled=("20 %",), pairs=_SMALL, **{"judged by": ("together",)}):
        means = [cells[name].split(" ± ")[0] for name in ("AP", "AUROC", "calibration error", "rate, % (interval)")]
        rows.append((f"{cells['pairs']} photographs, one caption each, 20 %", *means))
    lines = ([corpus, f"{precision} / {auroc}", error, f"{rate} %"] for corpus, precision, auroc, error, rate in rows)
    return markdown(["captions shuffled", "average precision / AUROC", "calibration error", "estimated rate"], lines)


def first_minutes_table(_: Sequence[Numbers]) -> str:
    """How long a new user waits, and how that was measured."""
    table = result("first_minutes")
    return f"{table.caption()}\n\n{markdown(table.columns, table.rows)}"


_NOT_SHOWN = ("text full, longer", "both full, longer", "text full, 500 images", "both full, five captions, slower")
"""Ways of fine-tuning whose numbers docs/finetuning.md has alone."""


def over_seeds(table: Result) -> list[dict[str, str]]:
    """The rows of fine-tuning that are shown, those of several seeds as one: mean and standard deviation, mean time."""
    cells: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in table.cells():
        if row["what learns"] not in _NOT_SHOWN:
            cells.setdefault((row["what learns"], row["noise"], row["system"]), []).append(row)

    def of(rows: Sequence[Mapping[str, str]], name: str, digits: int) -> str:
        values = [float(row[name].replace(",", "")) for row in rows if row[name] != "–"]
        return spread(values, digits) if values else "–"

    def time_of(rows: Sequence[Mapping[str, str]]) -> str:
        return f"{statistics.mean(float(row['CPU s'].replace(',', '')) for row in rows):,.0f}"

    return [
        rows[0] | {"rSum": of(rows, "rSum", 1), "AUROC": of(rows, "AUROC", 3), "CPU s": time_of(rows)}
        for rows in cells.values()
    ]


VIEWS: Mapping[str, Callable[[Result], str]] = {
    "detectors": lambda table: pivoted(table.cells(), ["corpus", "noise"], ["system"], "{AP} / {AUROC}"),
    "disentangling": lambda table: pivoted(
        table.cells(), ["system"], ["noise"], "{c from S} / {a from X} / {c from X} / {c from X by a network}"
    ),
    "disncl_cost": lambda table: pivoted(table.cells(), ["backbone"], ["iteration"], "{seconds} s ({CPU × plain} ×)"),
    "fine_tuning": lambda table: pivoted(
        over_seeds(table), ["what learns"], ["noise", "system"], "{rSum} / {AUROC} ({CPU s} s)"
    ),
    "mscn_cost": lambda table: pivoted(
        table.cells(),
        ["backbone", "plain s", "peak MB, plain"],
        ["mixed derivative"],
        "{MSCN s} s ({× plain (CPU)} ×), {peak MB, MSCN} MB",
    ),
    "mscn_parts": lambda table: markdown(
        table.columns[:3] + table.columns[9:],
        (row[:3] + row[9:] for row in table.rows if row[0].startswith("MSCN")),
    ),
    "small_audits": lambda table: pivoted(
        sorted(where(table, **{"judged by": ("together",)}), key=lambda cells: float(cells["pairs"].replace(",", ""))),
        ["pairs"],
        ["shuffled"],
        "{AUROC} / {AP} / {calibration error} / {rate, % (interval)} / {suspects}",
    ),
    "speed": lambda table: markdown(table.columns[:9], (row[:9] for row in table.rows if "bf16" not in row[0])),
}
"""How the page shows a table; those that are not here it shows whole."""


def page(numbers: Sequence[Numbers]) -> str:
    """RESULTS.md: ``page.md`` with a caption and a table for ``{{name}}``, several as one for ``{{a + b}}``."""

    def shown(place: re.Match[str]) -> str:
        names = place[1].split(" + ")
        if names == ["ladder"]:
            return page_ladder(numbers)
        if len(names) > 1:
            return short(*names)
        table = result(names[0])
        body = VIEWS[names[0]](table) if names[0] in VIEWS else markdown(table.columns, table.rows)
        return f"{table.caption()}\n\n{body}"

    return re.sub(r"\{\{(.+?)\}\}", shown, TEMPLATE.read_text(encoding="utf-8"))


TABLES: Mapping[str, Callable[[Sequence[Numbers]], str]] = {
    "accuracy": accuracy_table,
    "ladder": ladder_table,
    "demo": demo_table,
    "detection": detection_table,
    "first_minutes": first_minutes_table,
}
"""What stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""


def rewritten(text: str, numbers: Sequence[Numbers]) -> str:
    """A text with its tables as the numbers give them.

    >>> rewritten("<!-- demo -->\\nold\\n<!-- end of demo -->", []).splitlines()[:3]
    ['<!-- demo -->', '', '| demo, 40 % shuffled | rSum | AUROC | calibration error | estimated rate, % |']
    """
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start in text:
            before, rest = text.split(start, 1)
            text = f"{before}{start}\n\n{table(numbers)}\n\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    arguments = parser.parse_args()
    numbers = [run for name in RUNS for run in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))]
    pages = {path: rewritten(path.read_text(encoding="utf-8"), numbers) for path in MARKED} | {PAGE: page(numbers)}
    for path, wanted in pages.items():
        if arguments.check and path.read_text(encoding="utf-8") != wanted:
            sys.exit(f"{path} is not what the numbers give: run python benchmarks/tables.py")
        if not arguments.check:
            path.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
