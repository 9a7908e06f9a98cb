"""Declares torchvision's operators just before its first import, so that it loads beside a CPU build of torch.

Imported at interpreter start from a `.pth` file, hence the hook: only who imports torchvision pays for importing torch.
"""

import sys
from types import ModuleType
from typing import Any

_library: Any = None


class _DeclareOperators:
    """A meta path finder that never finds anything: being asked for `torchvision` is its cue."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> None:
        global _library
        if name != "torchvision" or _library is not None:
            return
        import torch

        # The library object must live as long as the process: its operators go with it.
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _DeclareOperators())  # type: ignore[arg-type]
