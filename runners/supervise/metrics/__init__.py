"""What upstreams write of a training run while it goes on, read without the libraries that wrote it.

The supervisor runs in the engine's environment, which has neither wandb nor tensorboard nor protobuf; both would bring
some hundred megabytes for a few numbers, in a version that each upstream pins differently. Nor could they follow a run:
wandb's reader takes the half-written end of a growing file for damage, and tensorboard's loader has to be imported from
its backend's inside. What is read here are formats that other programs rely on for years: JSON lines, leveldb's log,
TFRecord, and protobuf's wire format. Tests hold the readers equal to the libraries (`tests/openvla_real`,
`tests/starvla_real`).

    row.py        one row of metrics, under names that are the same for all upstreams: names.toml
    jsonl.py      trainer_log.jsonl, metrics.jsonl          state.py      trainer_state.json
    wandb_log.py  run-*.wandb                               events.py     events.out.tfevents.*
    wire.py       protobuf's wire format                    growing.py    a file that still grows, or is begun anew
    reader.py     all of them below a folder: new rows at each poll
    curve.py      the rows of a run that was resumed, as one curve for each name
"""
