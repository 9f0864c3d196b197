"""Copies into the documentation, while it is built, the files that stand elsewhere in the checkout.

- README pages outside docs/ become pages, and files that pages link to become files of the site.
- ``<!-- floors -->`` becomes the table of the package's floors, which tests/test_imports.py holds.
- Every package that people import gets a page of the API reference.

MkDocs calls the functions named ``on_...``. The others import nothing of MkDocs, so that tests can call them.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "*/README.md",
    "experiments/*/README.md",
    "results/*/README.md",
    "benchmarks/*.md",
)
PACKAGES = (
    "optimizers",
    "schedules",
    "objective",
    "curvature",
    "theory",
    "models",
    "data",
    "probes",
    "store",
    "config",
    "training",
    "analysis",
    "testing",
)
REPORT = ("The page is `index.html`, which `make pages` builds;", "The page is [report.html](index.html),")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


# ---- pages and links ----------------------------------------------------------------------------------------------------------


def included_pages() -> list[str]:
    """The Markdown files outside docs/ that become pages, by their paths in the checkout."""
    found = {path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(page for page in found if not page.startswith(("docs/", "data/", "site/")))


def own_pages() -> list[str]:
    """The Markdown files in docs/, by their paths in the checkout."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def links(text: str) -> Iterator[re.Match[str]]:
    """The links and images of a page that lead into the checkout, outside of fenced code."""
    code = [match.span() for match in _FENCE.finditer(text)]
    for match in _LINK.finditer(text):
        outside = not any(first <= match.start() < last for first, last in code)
        if outside and not re.match(r"[a-z]+:|#", match["target"]):
            yield match


def destination(page: str, target: str) -> tuple[str, str]:
    """The path in the checkout that ``target`` of a link on ``page`` leads to, and its anchor."""
    path, _, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)), anchor


def rewritten(page: str, text: str) -> str:
    """The text of ``page`` with links that lead to the same places in the site; those that lead nowhere become plain text."""
    here = posixpath.dirname(_in_site(page))
    pieces, end = [], 0
    for match in links(text):
        path, anchor = destination(page, match["target"])
        there = _place(path)
        pieces.append(text[end : match.start()])
        if there is None:
            pieces.append(match["text"])
        else:
            relative = posixpath.relpath(there, here or ".")
            pieces.append(f"{match['image']}[{match['text']}]({relative}{'#' + anchor if anchor else ''})")
        end = match.end()
    return "".join([*pieces, text[end:]])


def _in_site(path: str) -> str:
    """Where a file of the checkout lies in the site's sources."""
    if path == "README.md":
        return "index.md"
    # Beside a README.md, which becomes index.html itself, a report needs another name.
    path = re.sub(r"^(results/\w+)/index\.html$", r"\1/report.html", path)
    return path.removeprefix("docs/")


def _place(path: str) -> str | None:
    """Where a link to ``path`` leads in the site's sources; None for a folder without a page, or for what is absent."""
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
        return path if path in included_pages() else None
    if path == "docs/hooks.py" or (path.endswith(".md") and path not in {*included_pages(), *own_pages(), "README.md"}):
        return None
    return _in_site(path) if (ROOT / path).is_file() else None


def outdated_reports() -> list[Path]:
    """The folders of reports whose page is absent, or older than what it is built of."""
    found = []
    for record in sorted(ROOT.glob("results/*/page/page.json")):
        folder = record.parents[1]
        page = folder / "index.html"
        parts = [path for kind in ("page", "tables") for path in (folder / kind).iterdir()]
        if not page.is_file() or page.stat().st_mtime < max(path.stat().st_mtime for path in parts):
            found.append(folder)
    return found


def linked_files() -> list[str]:
    """The files outside docs/ that are no pages and that a page or a report links to."""
    patterns = ("results/*/tables/*", "results/*/figures/*", "results/*/index.html")
    found = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    for page in [*own_pages(), *included_pages()]:
        for match in links((ROOT / page).read_text(encoding="utf-8")):
            path = destination(page, match["target"])[0]
            if not path.startswith("docs/") and not path.endswith(".md") and (ROOT / path).is_file():
                found.add(path)
    found |= {
        f"{name.replace('.', '/')}.py" for package in PACKAGES if _is_listed(package) for name in modules_of(package)
    }
    return sorted(found)


# ---- the floors of the package ------------------------------------------------------------------------------------------------


def floors() -> list[list[str]]:
    """The table FLOORS of tests/test_imports.py, the lowest floor first."""
    tree = ast.parse((ROOT / "tests/test_imports.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FLOORS":
            return ast.literal_eval(node.value)
    raise LookupError("tests/test_imports.py has no FLOORS")


def summary(module: str) -> str:
    """The first line of the docstring of ``module``, such as "store.lock"; its modules where it is a folder without one."""
    path = ROOT / "optbench" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return ", ".join(f"`{other.stem}`" for other in sorted(path.glob("*.py")))
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", r"\|")


def floors_as_table() -> str:
    """The floors as a Markdown table, the highest first, with the first line of each module's docstring."""
    lines = ["| floor | module | purpose |", "| ---: | --- | --- |"]
    numbered = list(enumerate(floors()))
    lines += [f"| {number} | `{name}` | {summary(name)} |" for number, names in reversed(numbered) for name in names]
    return "\n".join(lines)


# ---- the API reference --------------------------------------------------------------------------------------------------------


def modules_of(package: str) -> list[str]:
    """The full names of a package and of the modules below it, without those whose names begin with "_"."""
    folder = ROOT / "optbench" / package
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def _is_listed(package: str) -> bool:
    """True if the reference only lists the modules of ``package``: mkdocstrings finds none without an __init__.py."""
    return not (ROOT / "optbench" / package / "__init__.py").is_file()


def reference_page(package: str) -> str:
    """The Markdown of the page about ``package``, from which mkdocstrings makes the reference. Of some packages it is a list."""
    if _is_listed(package):
        names = [name.removeprefix("optbench.") for name in modules_of(package)]
        rows = [f"| [{name}](../optbench/{name.replace('.', '/')}.py) | {summary(name)} |" for name in names]
        return "\n".join([f"# optbench.{package}", "", "| module | purpose |", "| --- | --- |", *rows])
    own, *others = modules_of(package)
    first = f"# {own}\n\n::: {own}\n    options:\n      show_root_heading: false"
    return "\n\n".join([first, *(f"::: {name}" for name in others)])


# ---- MkDocs -------------------------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Put the studies and the reference into the navigation."""
    studies: list[Any] = ["studies.md"]
    for folder in sorted((ROOT / "experiments").iterdir()):
        pages = [f"{place}/{folder.name}/README.md" for place in ("experiments", "results")]
        there = [page for page in pages if (ROOT / page).is_file()]
        if there:
            names = {"experiments": "question", "results": "findings"}
            studies.append({folder.name: [{names[page.partition("/")[0]]: page} for page in there]})
    config.nav += [
        {"Studies": studies},
        {"Speed": sorted(path for path in included_pages() if path.startswith("benchmarks/"))},
        {"API reference": [{f"optbench.{package}": f"reference/{package}.md"} for package in PACKAGES]},
        {"Every choice": "conf/README.md"},
        {"Slurm in detail": "slurm/README.md"},
        {"Contributing": "CONTRIBUTING.md"},
        {"Changes": "CHANGELOG.md"},
    ]
    return config


def on_pre_build(config: Any) -> None:
    """Build the pages of the reports, which are not in git."""
    folders = outdated_reports()
    if folders:
        from optbench.cli.pages import build

        for folder in folders:
            build(folder, ROOT / "results")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files that lie outside of docs/, and the pages of the reference."""
    from mkdocs.structure.files import File

    for path in [*included_pages(), *linked_files()]:
        files.append(File.generated(config, _in_site(path), abs_src_path=str(ROOT / path)))
    for package in PACKAGES:
        files.append(File.generated(config, f"reference/{package}.md", content=reference_page(package)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead every link to its place in the site, and write the floors."""
    source = page.file.src_uri
    if source.startswith("reference/"):
        return markdown
    path = source if source in included_pages() else f"docs/{source}"
    # Of the checkout the page has to be built; in the site it is there, under another name.
    markdown = markdown.replace(*REPORT)
    return rewritten(path, markdown).replace("<!-- floors -->", floors_as_table())
