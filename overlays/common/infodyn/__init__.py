"""Information dynamics: activation probes, Omega-ID analysis, self-chosen schedules, experts with memory."""
