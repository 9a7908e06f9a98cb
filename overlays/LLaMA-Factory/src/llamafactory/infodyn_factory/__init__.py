"""Information dynamics in LLaMA-Factory: its data sets as tasks, its Trainer as what asks the scheduler."""
