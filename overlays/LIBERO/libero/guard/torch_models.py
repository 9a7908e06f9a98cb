"""torch, with a ``load`` that yields tensors and plain settings: what LIBERO's ``torch_save_model`` writes.

Such a checkpoint holds a state dict, the configuration as nested EasyDict, and masks. ``weights_only`` refuses
EasyDict, so the names are listed here, for every torch.
"""

from __future__ import annotations

import builtins
import importlib
import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
import torch._utils

from .torch_files import Listed, Refused, is_zip, latin1, members

PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("_codecs", "encode"): latin1,
    **{(module, "set"): builtins.set for module in ("builtins", "__builtin__")},
}


class _Models(Listed):
    holds = "a checkpoint of weights and settings"
    names = PLAIN

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("easydict", "EasyDict"):
            return importlib.import_module("easydict").EasyDict
        return super().find_class(module, name)


def _load(file: Any, **options: Any) -> Any:
    return _Models(file, **options).load()


# What torch.load takes as pickle_module; it subclasses the Unpickler to find storages.
_PICKLE = SimpleNamespace(
    __name__=__name__, Unpickler=_Models, load=_load, UnpicklingError=pickle.UnpicklingError, loads=None
)


def load(path: str, map_location: Any = None) -> Any:
    """What ``torch.save`` wrote to a file: tensors (on ``map_location``), numbers, text, and containers of them.

    Raises:
        Refused: the file names anything else, or is a TorchScript archive; nothing of it was run.
    """
    try:
        with open(path, "rb") as file:
            if is_zip(file) and any(name.endswith("/constants.pkl") for name in members(file)):
                raise Refused("it is a TorchScript archive, which is code")
            return torch.load(file, map_location=map_location, pickle_module=_PICKLE)
    except Refused as error:
        raise Refused(f"{path} is not read: {error}") from None


def __getattr__(name: str) -> Any:
    return getattr(torch, name)
