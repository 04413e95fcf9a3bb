"""Builds the site of the documentation; fails on a broken link or on anything loaded from elsewhere.

python -m tools.docs
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from tools import figures, reference

REPOSITORY = Path(__file__).resolve().parents[1]
SITE = REPOSITORY / "build" / "site"


class External(HTMLParser):
    """Collects what a page loads from another server; links that a reader may follow are none of it."""

    def __init__(self) -> None:
        """Start with nothing found."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Look at one element."""
        values = dict(attrs)
        source = values.get("href" if tag == "link" else "src")
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        if source and re.match(r"(https?:)?//", source):
            self.found.append(source)


def loaded_from_elsewhere(html: str) -> list[str]:
    """Return the addresses of other servers from which a page loads something."""
    parser = External()
    parser.feed(html)
    return parser.found


def main() -> int:
    """Build the site; return the exit status."""
    if reference.main(["--check"]) != 0 or figures.main(["--check"]) != 0:
        return 1
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"],
        cwd=REPOSITORY,
        # The theme advertises its successor otherwise.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    if built.returncode != 0:
        return built.returncode
    pages = sorted(SITE.rglob("*.html"))
    external = {
        page.relative_to(SITE): found
        for page in pages
        if (found := loaded_from_elsewhere(page.read_text()))
    }
    for page, found in external.items():
        print(f"docs: {page} loads {', '.join(found)} from another server", file=sys.stderr)
    print(f"docs: {len(pages)} pages in {SITE.relative_to(REPOSITORY)}", file=sys.stderr)
    return 1 if external else 0


if __name__ == "__main__":
    sys.exit(main())
