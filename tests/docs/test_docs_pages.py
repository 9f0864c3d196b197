"""The pages of docs/ and the README: links lead somewhere, and what they list is what there is."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from optbench.config import choices

ROOT = Path(__file__).parents[2]


def _hooks():
    specification = importlib.util.spec_from_file_location("optbench_docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


hooks = _hooks()
OWN = ["README.md", *hooks.own_pages()]
PAGES = [*OWN, *hooks.included_pages()]


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page):
    """The anchors of the headings of a page; only headings whose anchor is the same on every forge and in the site."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S), flags=re.M):
        words = re.sub(r"[`*\\]", "", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_of_the_checkout(page):
    for match in hooks.links(text(page)):
        path, anchor = hooks.destination(page, match["target"])
        assert (ROOT / path).exists(), f"{page}: {match['target']}"
        if anchor and path.endswith(".md"):
            assert anchor in anchors(path), f"{page}: {match['target']}"


def test_links_within_a_page_lead_to_its_headings():
    for page in OWN:
        for anchor in re.findall(r"\]\(#([^)]+)\)", text(page)):
            assert anchor in anchors(page), f"{page}: #{anchor}"


def test_a_broken_link_would_be_seen():
    found = [hooks.destination("docs/how-to/a.md", match["target"]) for match in hooks.links("[x](../nowhere.md#y)\n")]
    assert found == [("docs/nowhere.md", "y")]
    assert not (ROOT / found[0][0]).exists()
    assert list(hooks.links("[x](https://a.b) [y](#z)\n```text\n[v](w.md)\n```\n")) == []


def test_links_are_rewritten_to_their_places_in_the_site():
    assert hooks.rewritten("docs/how-to/data.md", "[a](../../conf/README.md)") == "[a](../conf/README.md)"
    assert hooks.rewritten("docs/studies.md", "[a](../README.md)") == "[a](index.md)"
    assert hooks.rewritten("CONTRIBUTING.md", "[a](docs/how-to/optimizer.md#x)") == "[a](how-to/optimizer.md#x)"
    assert hooks._in_site("results/landscape/index.html") == "results/landscape/report.html"
    assert hooks.rewritten("results/landscape/README.md", "[a](no-such-file.html) and [b](tables)") == "a and b"


def test_every_page_is_in_the_navigation():
    # Its tags for Python objects are not YAML's own; there are none in the navigation.
    navigation = yaml.safe_load(text("mkdocs.yml"))["nav"]

    def pages(node):
        if isinstance(node, str):
            return {node}
        return set().union(*map(pages, node.values() if isinstance(node, dict) else node))

    listed = {f"docs/{page}" for page in pages(navigation)} | {"docs/studies.md"}  # that one by the hook
    assert listed == set(hooks.own_pages())


def test_the_site_loads_nothing_from_the_network():
    config = yaml.safe_load(text("mkdocs.yml"))
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & config.keys()
    for page in PAGES:
        images = [target for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text(page)) if "://" in target]
        assert images == [], page
        assert "<script" not in text(page), page
        assert "<img" not in text(page), page


def test_the_table_of_floors_is_that_of_the_test_of_imports():
    from tests.test_imports import FLOORS

    assert hooks.floors() == FLOORS
    rows = hooks.floors_as_table().splitlines()[2:]
    assert [tuple(re.match(r"\| (\d+) \| `([\w.]+)` \| \S", row).groups()) for row in rows] == [
        (str(floor), name) for floor, names in reversed(list(enumerate(FLOORS))) for name in names
    ]
    assert "<!-- floors -->" in text("docs/how-it-works/architecture.md")


def test_the_reference_has_the_modules_of_its_packages():
    page = hooks.reference_page("store")
    assert "::: optbench.store\n" in page
    assert "::: optbench.store.reading" in page
    for package in hooks.PACKAGES:
        assert hooks.modules_of(package), package


@pytest.mark.parametrize(
    ("group", "pages"),
    [
        ("optimizer", ["docs/methods/first-order.md", "docs/methods/second-order.md"]),
        ("transform", ["docs/methods/first-order.md"]),
        ("schedule", ["docs/methods/schedules.md"]),
        ("scaling", ["docs/methods/scaling.md"]),
        ("probe", ["docs/methods/curvature.md"]),
        ("selection", ["docs/methods/selection.md"]),
        ("tracker", ["docs/how-to/trackers.md"]),
    ],
)
def test_every_choice_is_on_its_page(group, pages):
    words = set(re.findall(r"`(\w+)`", "".join(map(text, pages))))
    assert sorted({*choices(group)} - {"none"} - words) == []


def test_every_study_is_on_the_page_of_studies():
    folders = {path.parent.name for path in ROOT.glob("experiments/*/README.md")}
    found = set(re.findall(r"\]\(\.\./experiments/(\w+)/README\.md\)", text("docs/studies.md")))
    assert found == folders


def test_the_readme_is_short_and_has_its_two_commands_and_one_picture():
    readme = text("README.md")
    assert len(readme.splitlines()) <= 120
    assert "make demo\nmake test\n" in readme
    assert readme.count("![") == 1
