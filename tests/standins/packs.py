"""The packs and overlays of the stand-in project, as text: ``speed`` and ``notes`` for tool, ``tiny`` for other."""

from __future__ import annotations

SPEED = """
from graft.pack import In, Pack, add_field, add_import, after, before

PACK = Pack(
    upstream="tool",
    name="speed",
    why="makes the model quick",
    edits=[
        In("src/tool/model.py", "load",
           add_import("from .speed.hooks import hurry", why="the seam calls it"),
           before("return model", add="hurry(model)", why="the model is whole here")),
        In("src/tool/config.py", "Arguments", add_field("speed: bool = False", why="the switch")),
        In("src/tool/train.py", "train",
           after("loss = $m.forward(step)", add="$m.seen(loss)", why="every loss counts")),
    ],
    overlays=["src/tool/speed"],
)
"""

NOTES = """
from graft.pack import In, Pack, add_keyword, after

PACK = Pack(
    upstream="tool",
    name="notes",
    why="keeps notes",
    edits=[
        In("src/tool/model.py", "Model.forward",
           after("scaled = ...", add="self.note = scaled", why="notes are read by the report")),
        In("src/tool/data.py", None, after("TABLE = rows", add="NOTES = []", why="one list")),
    ],
    overlays=["src/tool/notes.py"],
    common={"shared": "src/tool/shared"},
)
"""

TINY = """
from graft.pack import In, Pack, before

PACK = Pack(
    upstream="other",
    name="tiny",
    why="a small one",
    edits=[In("other/core.py", "start", before("return name", add="print('tiny')", why="to be seen"))],
)
"""

FILES: dict[str, str] = {
    "patches/tool/speed.py": SPEED,
    "patches/tool/notes.py": NOTES,
    "patches/other/tiny.py": TINY,
    "overlays/tool/src/tool/speed/__init__.py": "",
    "overlays/tool/src/tool/speed/hooks.py": "def hurry(model):\n    model.quick = True\n    return model\n",
    "overlays/tool/src/tool/notes.py": "def read(model):\n    return model.note\n",
    "overlays/common/shared/table.py": "ROWS = []\n",
}

AFTER_BOTH: dict[str, bytes] = {
    "src/tool/model.py": b'''"""The model."""

import math
from .speed.hooks import hurry


def load(config):
    model = Model(config.size)
    # compiled last
    model.ready = True
    hurry(model)
    return model


def halve(value):
    return value / 2


class Model:
    def __init__(self, size):
        self.size = size

    def forward(self, x):
        scaled = x * math.sqrt(self.size)
        self.note = scaled
        return scaled
''',
    "src/tool/config.py": (
        b"from dataclasses import dataclass\r\n\r\n\r\n@dataclass\r\nclass Arguments:\r\n"
        b"    size: int = 4\r\n    rate: float = 0.1\r\n    speed: bool = False\r\n\r\n"
        b"    def check(self):\r\n        return self.size > 0\r\n"
    ),
    "src/tool/train.py": (
        b"def train(model, steps):\n\tfor step in range(steps):\n\t\tloss = model.forward(step)\n"
        b"\t\tmodel.seen(loss)\n\t\treport(step, loss)\n\treturn model\n\n\n"
        b"def report(step, loss):\n\tprint(step, loss)\n"
    ),
    "src/tool/data.py": b"def rows(path):\n    names = []\n    for line in open(path):\n        names.append(line)\n"
    b"    return names\n\n\nTABLE = rows\nNOTES = []",
    "src/tool/speed/__init__.py": b"",
    "src/tool/speed/hooks.py": FILES["overlays/tool/src/tool/speed/hooks.py"].encode(),
    "src/tool/notes.py": FILES["overlays/tool/src/tool/notes.py"].encode(),
    "src/tool/shared/table.py": b"ROWS = []\n",
}
"""Every file of tool that the two packs together change or add, written out by hand."""
