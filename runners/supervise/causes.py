"""Why a run died, and what helps: the table, the diagnosis and its explanation."""

from __future__ import annotations

from runners.supervise.cause_table import Cause, Remedy, table
from runners.supervise.death import Diagnosis, Ended, diagnose
from runners.supervise.explain import explain
from runners.supervise.tables import BadTable

__all__ = ["BadTable", "Cause", "Diagnosis", "Ended", "Remedy", "diagnose", "explain", "table"]
