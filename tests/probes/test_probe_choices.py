"""conf/probe: what its files state, and how any number of them is chosen on the command line."""

import importlib
import inspect

import pytest

from optbench import config
from optbench.config import schema
from optbench.errors import UserError
from optbench.probes import SCHEDULE_OPTIONS, Probe, Probes
from optbench.probes.running import ScheduledProbe
from optbench.probes.schedule import ProbeSchedule

PROBES = sorted(set(config.choices("probe")) - {"none"})


@pytest.mark.parametrize("name", PROBES)
def test_every_file_states_what_it_is_and_names_a_probe_that_takes_its_options(name):
    choice = config.read_choice("probe", name)
    info = choice["info"]
    assert choice["name"] == name
    assert info["about"].strip()
    assert info["source"].strip()
    assert "\n" not in info["about"].strip()
    given = config.options(choice)
    assert given.keys() == info["schema"].keys()
    schema.check(given, info["schema"], name)
    module, _, target = choice["_target_"].rpartition(".")
    found = getattr(importlib.import_module(module), target)
    assert issubclass(found, Probe)
    probe = found(**{option: value for option, value in given.items() if option not in SCHEDULE_OPTIONS})
    # The defaults of the class are those of the file, for those who use it as a library.
    defaults = {}
    for cls in reversed(inspect.getmro(found)[:-1]):
        defaults |= {one.name: one.default for one in inspect.signature(cls.__init__).parameters.values()}
    for option in given.keys() & defaults.keys():
        assert defaults[option] == given[option], option
    assert probe.window >= 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["probe=none"], []),
        (["probe=[]"], []),
        (["probe=spectrum"], ["spectrum"]),
        (["probe=[spectrum,noise_scale]"], ["spectrum", "noise_scale"]),
        (["probe=[none,trace]"], ["trace"]),
        (["probe=spectrum", "probe=trace"], ["trace"]),
    ],
    ids=str,
)
def test_any_number_of_probes_is_chosen(words, expected):
    assert list(config.compose(words)["probe"]) == expected


def test_options_of_a_probe_are_set_one_by_one():
    chosen = config.compose(["probe=[spectrum,trace]", "probe.spectrum.steps=40", "probe.trace.every=2epochs"])
    assert chosen["probe"]["spectrum"]["steps"] == 40
    assert chosen["probe"]["trace"]["every"] == "2epochs"
    assert chosen["probe"]["trace"]["most"] == 100


def test_probes_are_no_part_of_a_run_s_identity():
    plain = config.run_id(config.compose([]))
    assert config.run_id(config.compose(["probe=[spectrum,noise_scale]", "probe.spectrum.steps=7"])) == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["probe=specrum"], "probe=specrum: no such probe; did you mean spectrum?"),
        (["probe=[trace,specrum]"], "probe=specrum: no such probe; did you mean spectrum?"),
        (["probe=spectrum,trace"], r"written as a list, in quotes: 'probe=\[spectrum,trace\]'"),
        (["probe=null"], "probe=null: must be a list of choices; accepted: one, or several as in"),
        (["probe.spectrum.steps=3"], r"spectrum is not among the chosen; choose it too, as in 'probe=\[spectrum\]'"),
        (["probe.specrum.steps=3"], "no such probe; did you mean spectrum?"),
        (["probe=trace", "probe.trace.mots=3"], "probe.trace.mots: unknown key; did you mean most?"),
        (["probe=trace", "probe.trace.most=0"], "probe.trace.most=0: must be int >= 2"),
        (["probe=trace", "probe.trace.every=x"], "probe.trace.every=x: must be duration > 0 or null"),
        (["probe=trace", "probe.trace.name=x"], "probe.trace.name=x: is fixed; choose with probe="),
        (["probe=trace", "probe.trace.matrix=x"], "must be one of hessian, gauss_newton, fisher, empirical_fisher"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message(words, message):
    with pytest.raises(UserError, match=message):
        config.compose(words)


def test_a_checkpoint_from_before_a_probe_had_its_name_is_taken():
    class Remembering(Probe):
        seen = None

        def measure(self, context):
            raise NotImplementedError

        def load_state_dict(self, state):
            self.seen = state["seen"]

    remembering = Remembering()
    probes = Probes([ScheduledProbe("eigenvalues", remembering, ProbeSchedule(6, every=3), {})])
    own = {"extremes": {"seen": 2}}
    probes.load_state({"measured": {"extremes": 3}, "values": {"extremes_top": 1.5}, "seconds": 0.5, "probes": own})
    assert remembering.seen == 2
    assert probes.summary() == {"eigenvalues_top": 1.5, "probe_seconds": 0.5}
    assert probes.due(3) == []  # it has measured there
