"""Gradient surgery against forgetting: probe set, instruction-conditioned subspaces, gradient hooks, thermostat."""
