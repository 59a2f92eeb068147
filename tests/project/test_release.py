"""What a release is made of agrees: version, contents, pins, and the files that name them."""

import fnmatch
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import truepair

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOT_TRIED = {"heic", "ray", "stores", "tensorboard", "open_clip"}
"""Extras that the tests do without, so that constraints.txt does not pin them."""


def read(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def parsed(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def plain(name):
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_and_bounds(requirement):
    name, bounds = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*(.*)", requirement).groups()
    return plain(name), bounds.replace(" ", "")


def pins():
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    return {plain(name): pin for name, pin in (line.split("==") for line in lines)}


def releases():
    return re.findall(r"^## \[(\d[^]]*)\]", read("CHANGELOG.md"), re.MULTILINE)


def test_the_version_is_that_of_the_installed_package_and_stands_nowhere_in_the_source():
    assert truepair.__version__ == version("truepair")
    assert "version" in PROJECT["project"]["dynamic"]
    assert not re.search(r"__version__ = [\"']", read("src", "truepair", "__init__.py"))


def test_importing_truepair_does_not_look_for_its_version():
    program = "import sys; before = set(sys.modules); import truepair; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "truepair" in done.stdout.split()
    assert "importlib.metadata" not in done.stdout.split()


def test_every_file_that_is_no_code_goes_into_the_wheel():
    package = ROOT / "src" / "truepair"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["truepair"]
    data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names = [path.relative_to(package).as_posix() for path in data]
    assert len(names) > 20
    assert [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_a_wheel_that_lacks_a_file_is_refused(tmp_path):
    check = runpy.run_path(str(ROOT / "tools" / "check_dist.py"))["check_contents"]
    path = tmp_path / "truepair-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("truepair/__init__.py", "")
    with pytest.raises(SystemExit, match="package-data"):
        check(path)


def test_the_description_of_a_package_leads_to_whole_addresses_only(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("README.md", "pyproject.toml", "setup.py", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src" / "truepair").mkdir(parents=True)
    program = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metadata = next(tmp_path.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    home = PROJECT["project"]["urls"]["Homepage"]
    assert f"]({home}/raw/main/docs/pictures/report.png)" in metadata
    assert f"]({home}/blob/main/docs/index.md)" in metadata
    check = runpy.run_path(str(ROOT / "tools" / "check_dist.py"))["check_description"]
    check(metadata)
    with pytest.raises(SystemExit, match="README"):
        check(f"{metadata}\n[relative](README.md)")


def test_a_release_has_to_stand_in_the_changelog():
    check = runpy.run_path(str(ROOT / "tools" / "check_dist.py"))["check_version"]
    check(releases()[0])
    check("99.0.dev3")
    with pytest.raises(SystemExit, match="CHANGELOG"):
        check("99.0")


def test_what_is_cited_is_the_newest_release_and_the_papers():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == releases()[0]
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"## [{citation['version']}] - {citation['date-released']}" in read("CHANGELOG.md")
    titles = [paper["title"] for paper in citation["references"]]
    assert len(titles) == 3
    papers = read("docs", "papers.md")
    assert [title for title in titles if title not in papers] == []
    assert all(paper["authors"] and paper["year"] for paper in citation["references"])


def test_every_package_that_the_tests_use_is_pinned_within_its_bounds():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    wanted += [each for extra, needed in extras.items() if extra not in NOT_TRIED for each in needed]
    needed = {name_and_bounds(requirement)[0] for requirement in wanted} - {"truepair"}
    assert needed - pins().keys() == set()


def test_the_recipe_for_conda_asks_for_what_the_project_asks_for():
    conda_names = {"matplotlib-base": "matplotlib", "pytorch": "torch"}
    recipe = yaml.safe_load(read("conda", "recipe.yaml"))
    asked = [requirement.partition(" ")[::2] for requirement in recipe["requirements"]["run"]]
    asked = {conda_names.get(name, name): bounds for name, bounds in asked}
    assert asked.pop("python") == PROJECT["project"]["requires-python"]
    assert asked.pop("aiohttp") == ""  # fsspec's extra "http"
    assert asked == dict(map(name_and_bounds, PROJECT["project"]["dependencies"]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path):
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    jobs = parsed(path)["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert all(re.fullmatch(r"make [\w-]+( PYTHON=python)?", command) for command in commands), commands
    assert {command.split()[1] for command in commands} <= targets


def test_pythons_that_are_promised_are_tested():
    names = PROJECT["project"]["classifiers"]
    promised = [
        found[1] for name in names if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", name))
    ]
    matrix = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_reports_of_faults_ask_for_the_summary():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        if path.stem != "config":
            assert "summary" in [field.get("id") for field in parsed(path)["body"]]
    assert "summary.json" in read(".github", "pull_request_template.md")


def test_hooks_run_the_ruff_that_the_tests_run():
    hooks = parsed(ROOT / ".pre-commit-config.yaml")["repos"][0]
    assert hooks["rev"] == f"v{pins()['ruff']}"


def test_other_configurations_parse_and_extras_that_are_named_exist():
    assert parsed(ROOT / ".github" / "dependabot.yml")["version"] == 2
    image = read("Dockerfile")
    named = set(re.search(r"\.whl\)\[([\w,]+)\]", image)[1].split(","))
    assert named <= PROJECT["project"]["optional-dependencies"].keys()
    assert "USER truepair" in image


def test_the_page_of_numbers_is_one_page_and_shows_every_file_of_numbers():
    assert len(read("benchmarks", "RESULTS.md").splitlines()) <= 250
    shown = {
        name
        for place in re.findall(r"\{\{(.+?)\}\}", read("benchmarks", "results", "page.md"))
        for name in place.split(" + ")
    }
    files = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert shown == files - {"demo", "first_minutes"}  # whose runs stand in the ladder; which docs/index.md shows
    for name in shown - {"ladder"}:
        table = json.loads(read("benchmarks", "results", f"{name}.json"))
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}, name
