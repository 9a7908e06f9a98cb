"""A checkpoint as a policy."""

import json
import os
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
from prismatic.extern.hf.registration import AutoModelForVision2Seq, AutoProcessor, register
from prismatic.models.backbones.llm.prompting import PurePromptBuilder, VicunaV15ChatPromptBuilder
from prismatic.util.torch_utils import DTYPE

ACTION_DIM = 7
DATE = time.strftime("%Y_%m_%d")
DATE_TIME = time.strftime("%Y_%m_%d-%H_%M_%S")
DEVICE = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")


def get_vla(cfg: Any) -> Any:
    register(OpenVLAConfig, OpenVLAForActionPrediction, PrismaticImageProcessor, PrismaticProcessor)
    vla = AutoModelForVision2Seq.from_pretrained(
        cfg.pretrained_checkpoint,
        attn_implementation="flash_attention_2",
        torch_dtype=DTYPE,
        trust_remote_code=True,
    )
    vla = vla.to(DEVICE).eval()
    statistics = os.path.join(cfg.pretrained_checkpoint, "dataset_statistics.json")
    if os.path.isfile(statistics):
        with open(statistics) as file:
            vla.norm_stats = json.load(file)
    else:
        print(f"WARNING: {statistics} is not there, so `unnorm_key` is looked for in the checkpoint's own statistics")
    return vla


def get_processor(cfg: Any) -> Any:
    return AutoProcessor.from_pretrained(cfg.pretrained_checkpoint, trust_remote_code=True)


def get_vla_action(
    vla: Any,
    processor: Any,
    base_vla_name: Any,
    obs: dict[str, np.ndarray],
    task_label: str,
    unnorm_key: str,
    center_crop: bool = False,
) -> np.ndarray:
    """The action [7] for a picture; ``center_crop`` changes nothing, since training here never crops."""
    builder = (VicunaV15ChatPromptBuilder if "openvla-v01" in str(base_vla_name) else PurePromptBuilder)("openvla")
    builder.add_turn("human", f"What action should the robot take to {task_label.lower()}?")
    inputs = processor(builder.get_prompt(), Image.fromarray(obs["full_image"]).convert("RGB"))
    inputs = inputs.to(DEVICE, dtype=DTYPE)
    return vla.predict_action(**inputs, unnorm_key=unnorm_key, do_sample=False)
