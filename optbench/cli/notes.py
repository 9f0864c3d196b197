"""`tag` and `note`: store tags and a text beside runs."""

from collections.abc import Sequence

from optbench.cli.named import counted, named, refuse_at_work
from optbench.cli.parser import Parser
from optbench.store import find
from optbench.store.notes import annotate, check_tag, notes_of

_TAG = """\
Give tags to a run, or to every run of a sweep. Tags are words for selecting runs, in the column tags of `optbench.load` and of
`status`. Without words, show the tags. Tags change nothing else.
"""
_NOTE = """\
Store a text beside a run, in place of an earlier one; an empty text removes it. Without a text, show the stored one. It is in
the column note of `optbench.load`.
"""


def tag(words: Sequence[str]) -> int:
    """`tag RUN|SWEEP WORD ...`: add tags, or remove them."""
    parser = Parser(prog="optbench tag", description=_TAG)
    parser.add_argument("name", metavar="RUN|SWEEP", help="a run id, or a unique beginning or end of one; or a sweep")
    parser.add_argument("tags", nargs="*", metavar="WORD", help="letters, digits and _ . + : -")
    parser.add_argument("--remove", action="append", default=[], metavar="WORD", help="take this tag away (repeatable)")
    parser.add_results_dir()
    given = parser.parse_intermixed_args(list(words))
    for word in (*given.tags, *given.remove):
        check_tag(word)
    runs = named(given.results_dir, [given.name]).runs
    if not given.tags and not given.remove:
        for run in runs:
            print(f"{run.run_id}: {' '.join(notes_of(run).tags) or 'no tags'}")
        return 0
    refuse_at_work(f"tag {given.name}", runs)
    found = [annotate(run, given.tags, given.remove) for run in runs]
    if len(runs) == 1:
        print(f"{runs[0].run_id}: {' '.join(found[0].tags) or 'no tags'}")
    else:
        did = [f"now with {' '.join(given.tags)}"] * bool(given.tags) + [f"without {' '.join(given.remove)}"] * bool(
            given.remove
        )
        print(f"{given.name}: {counted(len(runs), 'run')} {', '.join(did)}")
    return 0


def note(words: Sequence[str]) -> int:
    """`note RUN TEXT`: store a text beside a run."""
    parser = Parser(prog="optbench note", description=_NOTE)
    parser.add_argument("run", metavar="RUN", help="a run id, or a unique beginning or end of one")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="in quotes")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    run = find(given.results_dir, given.run)
    if given.text is None:
        print(f"{run.run_id}: {notes_of(run).note or 'no note'}")
        return 0
    refuse_at_work(f"note {given.run}", [run])
    print(f"{run.run_id}: {annotate(run, note=given.text).note or 'no note'}")
    return 0
