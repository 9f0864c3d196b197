"""Probes: measurements of a live run on a schedule, which change nothing in the run.

There is one file for each probe. A new probe is a subclass of ``Probe`` in its own file and a YAML file in conf/probe, whose
``_target_`` names it; its options are the constructor's arguments and those of the schedule.
"""

from optbench.probes.base import Measurement, Probe, ProbeContext, SubsetProbe
from optbench.probes.measured import MeasuredModel
from optbench.probes.running import Probes, ScheduledProbe
from optbench.probes.schedule import SCHEDULE_OPTIONS, ProbeSchedule

__all__ = [
    "SCHEDULE_OPTIONS",
    "MeasuredModel",
    "Measurement",
    "Probe",
    "ProbeContext",
    "ProbeSchedule",
    "Probes",
    "ScheduledProbe",
    "SubsetProbe",
]
