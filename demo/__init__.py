"""`make demo`: the real LLaMA-Factory, grafted and trained by its own command, and a report of what happened."""
