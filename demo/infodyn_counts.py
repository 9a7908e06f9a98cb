"""Prints how often each expert was active, as one JSON object, last line: {probe: {epoch: {module: {expert: count}}}}.

    python demo/infodyn_counts.py RUN      (in an environment with torch: the files are torch's)

RUN is a folder whose `probes/` an activation probe has filled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "overlays" / "common"))

from infodyn.probe_file import probe_files, read_probe_file

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(
        json.dumps(
            {
                probe.name: {
                    epoch: read_probe_file(path)["metadata"]["expert_activation_counts"]
                    for epoch, path in probe_files(folder, probe.name)
                }
                for probe in sorted((folder / "probes").iterdir())
            }
        )
    )
