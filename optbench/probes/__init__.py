"""Probes: measurements that are taken of a live run on a schedule, and change nothing in it.

One file a probe. A new one is a subclass of ``Probe`` in a file of its own and a YAML in conf/probe, whose ``_target_`` names
it; its options are the constructor's arguments and those of the schedule.
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
