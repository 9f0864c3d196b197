"""`list --markdown` and conf/README.md, which is made by it; the tables for the terminal are in test_command_line."""

import re
from pathlib import Path

import pytest

from optbench.config import GROUPS, LIST_GROUPS, choices, compose, resolve, run_id

CONF = Path(__file__).parents[2] / "conf"


def rows(text):
    """The cells of every row below a heading, by the group of the heading."""
    tables = {}
    for line in text.splitlines():
        if heading := re.fullmatch(r"## `(?:-m )?(\w+)=\.\.\.`", line):
            table = tables[heading[1]] = []
        elif line.startswith("| ["):
            table.append(re.split(r"(?<!\\)\|", line)[1:-1])
    return tables


def test_the_readme_of_conf_is_what_the_command_prints(command):
    status, out, err = command("list", "--markdown")
    assert (status, err) == (0, "")
    assert (CONF / "README.md").read_text(encoding="utf-8") == out, (
        "conf/README.md is not up to date: python -m optbench list --markdown > conf/README.md"
    )


def test_every_choice_is_a_row_that_links_to_its_file(command):
    tables = rows(command("list", "--markdown")[1])
    assert tables.keys() == {*GROUPS, *LIST_GROUPS, "experiment"}
    for group, table in tables.items():
        assert [name.strip() for name, *_ in table] == [f"[{name}]({group}/{name}.yaml)" for name in choices(group)]
        assert all(len(row) == 3 and row[1].strip() for row in table)


def test_the_large_groups_come_first(command):
    groups = list(rows(command("list", "--markdown")[1]))
    assert groups[:3] == ["optimizer", "model", "dataset"]
    assert {"schedule", "probe", "experiment"} == set(groups[3:6])


def test_every_link_into_the_checkout_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", (CONF / "README.md").read_text(encoding="utf-8"))
    inside = [link for link in links if not link.startswith("http")]
    assert len(inside) > 150
    assert [link for link in inside if not (CONF / link).is_file()] == []


def test_a_source_is_linked_by_its_arxiv_number_or_address(command):
    _, out, _ = command("list", "optimizers", "--markdown")
    assert (
        "| [adam](optimizer/adam.yaml) | adaptive moments (scaling=auto: sqrt) "
        "| Kingma & Ba 2015, [arXiv 1412.6980](https://arxiv.org/abs/1412.6980); defaults of the paper |\n"
    ) in out
    assert "Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon>; Liu" in out
    assert r"Newton's method with \|eigenvalues\| of the Hessian" in out
    assert out.startswith("## `optimizer=...`\n")


def test_no_arxiv_number_or_address_is_left_bare(command):
    _, out, _ = command("list", "--markdown")
    assert out.count("https://arxiv.org/abs/") > 80
    assert re.findall(r"(?<!\[)arXiv:? ?\d.*", out) == []
    assert re.findall(r"(?<![<(])https?://.*", out) == []


def test_an_experiment_leads_to_its_question_and_source(command):
    _, out, _ = command("list", "experiments", "--markdown")
    assert "| [experiments/second_order](../experiments/second_order/README.md) |" in out
    assert all(folder.strip() for _, _, folder in rows(out)["experiment"])


def test_options_are_not_for_markdown(command):
    status, out, err = command("list", "--markdown", "--options")
    assert (status, out) == (2, "")
    assert "--options: not allowed with argument --markdown" in err


@pytest.mark.parametrize("group", GROUPS)
def test_what_a_choice_says_of_itself_is_not_in_the_run_id(group):
    config = resolve(compose(["dataset=digits", "tracker=none"]))
    before = run_id(config)
    config[group]["info"] |= {"about": "something else", "source": "somebody else"}
    assert run_id(config) == before


def test_the_names_of_the_zoo_are_listed_with_their_standing(command, monkeypatch):
    pytest.importorskip("pytorch_optimizer")
    from optbench.optimizers import zoo

    monkeypatch.setenv("COLUMNS", "400")
    status, out, err = command("list", "optimizers", "--zoo")
    assert (status, err) == (0, "")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if len(line.split()) > 1}
    for name in zoo.classes():
        assert lines[name][1] == ("refused" if zoo.standing(name).refused else "accepted")
    assert lines["soap"][-1] == "soap"
    assert " ".join(lines["demo"][2:]) == zoo.standing("demo").refused
    assert lines["sophiah"][-1] == "sophia"
    assert f"{len(zoo.accepted())} names are accepted" in out


def test_the_zoo_is_a_list_of_optimizers(command):
    status, _, err = command("list", "models", "--zoo")
    assert status == 2
    assert "accepted: list optimizers --zoo" in err
