"""The site that `make docs` builds: it is whole, and a browser that opens a page asks no network for anything."""

import html.parser
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("docs")]


class Page(html.parser.HTMLParser):
    """``loaded``: what a browser fetches to show the page. ``linked``: where its links lead. ``ids``: its anchors."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.linked, self.ids = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given.get("id"), given.get("name")} - {None}
        if tag == "a":
            self.linked |= {given.get("href")} - {None}
        elif tag == "link":
            self.loaded |= {given.get("href")} if given.get("rel") in ("stylesheet", "icon", "preload") else set()
        elif tag != "base":
            self.loaded |= {given.get("src"), given.get("srcset")} - {None}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as a folder, built without a way to a network."""
    pytest.importorskip("mkdocs", reason="needs the extra docs, which `make docs` installs")
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    # Reports have tests of their own; a server shows 404.html at any path, so its addresses are absolute.
    return {path: Page(path) for path in site.rglob("*.html") if path.name not in ("404.html", "report.html")}


def test_pages_load_only_what_lies_beside_them(site, pages):
    assert len(pages) > 40
    for path, page in pages.items():
        for address in page.loaded - {"data:,"}:
            parts = urlsplit(address)
            assert not parts.scheme or parts.scheme == "data", f"{path}: {address}"
            assert not parts.netloc, f"{path}: {address}"
            if not parts.scheme:
                assert (path.parent / unquote(parts.path)).is_file(), f"{path}: {address}"


def test_links_lead_to_pages_and_anchors_of_the_site(site, pages):
    for path, page in pages.items():
        for address in page.linked:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path}: {address}"
            if parts.fragment and there in pages:
                assert unquote(parts.fragment) in pages[there].ids | {"__skip"}, f"{path}: {address}"


def test_a_report_has_an_address_of_its_own_beside_the_findings(site):
    folders = [path.parents[1] for path in ROOT.glob("results/*/page/page.json")]
    assert len(folders) >= 7
    for path in (folder / "index.html" for folder in folders):
        copy = site / path.relative_to(ROOT).with_name("report.html")
        assert copy.read_bytes() == path.read_bytes()
        assert 'href="report.html"' in copy.with_name("index.html").read_text(encoding="utf-8")


def test_the_reference_and_the_floors_are_there(site):
    assert "optbench.store.reading.load" in (site / "reference" / "store.html").read_text(encoding="utf-8")
    assert "<td><code>store</code></td>" in (site / "how-it-works" / "architecture.html").read_text(encoding="utf-8")
