"""README.md as the description of the package: its links are made whole, as an index shows it alone."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
_RELATIVE = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)]+")


def with_whole_addresses(readme: str, repository: str) -> str:
    """A page whose links to files lead to the main branch of the repository; pictures to the files themselves.

    >>> with_whole_addresses("[Start](docs/index.md), ![](docs/a.png)", "https://host/name")
    '[Start](https://host/name/blob/main/docs/index.md), ![](https://host/name/raw/main/docs/a.png)'
    """

    def whole(link: re.Match[str]) -> str:
        kind = "raw" if link[0].endswith((".png", ".svg")) else "blob"
        return f"{repository}/{kind}/main/{link[0]}"

    return _RELATIVE.sub(whole, readme)


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (HERE / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=with_whole_addresses(page, project["urls"]["Homepage"]),
        long_description_content_type="text/markdown",
    )
