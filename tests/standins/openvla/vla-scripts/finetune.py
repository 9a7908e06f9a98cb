"""Fine-tunes a checkpoint with LoRA: the stand-in's version of the upstream's script, with its steps and its options.

    torchrun --standalone --nnodes 1 --nproc-per-node K vla-scripts/finetune.py --vla_path DIR --data_root_dir DIR ...

Without torchrun it runs on one process. Losses and weights follow from torch's seed.
"""

import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the stand-in is never installed

import draccus
import torch
import torch.distributed as dist
import tqdm
import wandb
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
from prismatic.extern.hf.registration import AutoModelForVision2Seq, AutoProcessor, register
from prismatic.models.backbones.llm.prompting import PurePromptBuilder, VicunaV15ChatPromptBuilder
from prismatic.util.data_utils import PaddedCollatorForActionPrediction
from prismatic.util.torch_utils import DEVICE, DTYPE, begin_process_group
from prismatic.vla.action_tokenizer import ActionTokenizer
from prismatic.vla.datasets import RLDSBatchTransform, RLDSDataset
from prismatic.vla.datasets.rlds.utils.data_utils import save_dataset_statistics
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim import AdamW
from torch.utils.data import DataLoader


@dataclass
class FinetuneConfig:
    vla_path: str = "openvla/openvla-7b"  # folder of a checkpoint

    data_root_dir: Path = Path("datasets/open-x-embodiment")  # holds a folder for each data set
    dataset_name: str = "droid_wipe"
    run_root_dir: Path = Path("runs")
    adapter_tmp_dir: Path = Path("adapter-tmp")  # LoRA weights before they are merged

    batch_size: int = 16
    max_steps: int = 200_000
    save_steps: int = 5000
    learning_rate: float = 5e-4
    grad_accumulation_steps: int = 1
    image_aug: bool = True
    shuffle_buffer_size: int = 100_000
    save_latest_checkpoint_only: bool = True

    use_lora: bool = True
    lora_rank: int = 32
    lora_dropout: float = 0.0
    use_quantization: bool = False  # not in the stand-in

    wandb_project: str = "openvla"
    wandb_entity: str = "stanford-voltron"
    run_id_note: str | None = None


@draccus.wrap()
def finetune(cfg: FinetuneConfig) -> None:
    print(f"fine-tuning `{cfg.vla_path}` on `{cfg.dataset_name}`")
    if cfg.use_quantization:
        raise NotImplementedError("the stand-in does not quantise")
    begin_process_group()
    distributed_state = PartialState(cpu=DEVICE == "cpu")
    device_id = distributed_state.device

    exp_id = (
        f"{cfg.vla_path.split('/')[-1]}+{cfg.dataset_name}"
        f"+b{cfg.batch_size * cfg.grad_accumulation_steps}"
        f"+lr-{cfg.learning_rate}"
    )
    if cfg.use_lora:
        exp_id += f"+lora-r{cfg.lora_rank}+dropout-{cfg.lora_dropout}"
    if cfg.run_id_note is not None:
        exp_id += f"--{cfg.run_id_note}"
    if cfg.image_aug:
        exp_id += "--image_aug"
    run_dir, adapter_dir = cfg.run_root_dir / exp_id, cfg.adapter_tmp_dir / exp_id
    os.makedirs(run_dir, exist_ok=True)

    register(OpenVLAConfig, OpenVLAForActionPrediction, PrismaticImageProcessor, PrismaticProcessor)
    processor = AutoProcessor.from_pretrained(cfg.vla_path, trust_remote_code=True)
    vla = AutoModelForVision2Seq.from_pretrained(cfg.vla_path, torch_dtype=DTYPE, trust_remote_code=True)
    vla = vla.to(device_id)
    if cfg.use_lora:
        lora_config = LoraConfig(
            r=cfg.lora_rank,
            lora_alpha=min(cfg.lora_rank, 16),
            lora_dropout=cfg.lora_dropout,
            target_modules="all-linear",
            init_lora_weights="gaussian",
        )
        vla = get_peft_model(vla, lora_config)
        vla.print_trainable_parameters()
    device_ids = [device_id] if DEVICE == "cuda" else None
    vla = DDP(vla, device_ids=device_ids, find_unused_parameters=True, gradient_as_bucket_view=True)
    trainable_params = [param for param in vla.parameters() if param.requires_grad]
    optimizer = AdamW(trainable_params, lr=cfg.learning_rate)

    action_tokenizer = ActionTokenizer(processor.tokenizer)
    batch_transform = RLDSBatchTransform(
        action_tokenizer,
        processor.tokenizer,
        image_transform=processor.image_processor.apply_transform,
        prompt_builder_fn=PurePromptBuilder if "v01" not in cfg.vla_path else VicunaV15ChatPromptBuilder,
    )
    vla_dataset = RLDSDataset(
        cfg.data_root_dir,
        cfg.dataset_name,
        batch_transform,
        resize_resolution=tuple(vla.module.config.image_sizes),
        shuffle_buffer_size=cfg.shuffle_buffer_size,
        image_aug=cfg.image_aug,
    )
    if distributed_state.is_main_process:
        save_dataset_statistics(vla_dataset.dataset_statistics, run_dir)
    collator = PaddedCollatorForActionPrediction(
        processor.tokenizer.model_max_length, processor.tokenizer.pad_token_id, padding_side="right"
    )
    dataloader = DataLoader(vla_dataset, batch_size=cfg.batch_size, sampler=None, collate_fn=collator, num_workers=0)
    if distributed_state.is_main_process:
        wandb.init(entity=cfg.wandb_entity, project=cfg.wandb_project, name=f"ft+{exp_id}")

    recent_losses = deque(maxlen=cfg.grad_accumulation_steps)
    recent_action_accuracies = deque(maxlen=cfg.grad_accumulation_steps)
    recent_l1_losses = deque(maxlen=cfg.grad_accumulation_steps)
    with tqdm.tqdm(total=cfg.max_steps, leave=False) as progress:
        vla.train()
        optimizer.zero_grad()
        for batch_idx, batch in enumerate(dataloader):
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DTYPE is torch.bfloat16):
                output = vla(
                    input_ids=batch["input_ids"].to(device_id),
                    attention_mask=batch["attention_mask"].to(device_id),
                    pixel_values=batch["pixel_values"].to(DTYPE).to(device_id),
                    labels=batch["labels"],
                )
                loss = output.loss
            normalized_loss = loss / cfg.grad_accumulation_steps
            normalized_loss.backward()

            action_logits = output.logits[:, vla.module.vision_backbone.featurizer.patch_embed.num_patches : -1]
            action_preds = action_logits.argmax(dim=2)
            action_gt = batch["labels"][:, 1:].to(action_preds.device)
            mask = action_gt > action_tokenizer.action_token_begin_idx
            decode = action_tokenizer.decode_token_ids_to_actions
            distance = decode(action_preds[mask].cpu().numpy()) - decode(action_gt[mask].cpu().numpy())
            recent_losses.append(loss.item())
            recent_action_accuracies.append((action_preds == action_gt)[mask].float().mean().item())
            recent_l1_losses.append(float(abs(distance).mean()))

            gradient_step_idx = batch_idx // cfg.grad_accumulation_steps
            smoothened_loss = sum(recent_losses) / len(recent_losses)
            smoothened_action_accuracy = sum(recent_action_accuracies) / len(recent_action_accuracies)
            smoothened_l1_loss = sum(recent_l1_losses) / len(recent_l1_losses)
            if distributed_state.is_main_process and gradient_step_idx % 10 == 0:
                wandb.log(
                    {
                        "train_loss": smoothened_loss,
                        "action_accuracy": smoothened_action_accuracy,
                        "l1_loss": smoothened_l1_loss,
                    },
                    step=gradient_step_idx,
                )

            if (batch_idx + 1) % cfg.grad_accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
                progress.update()

            if gradient_step_idx > 0 and gradient_step_idx % cfg.save_steps == 0:
                if distributed_state.is_main_process:
                    print(f"saving the checkpoint of step {gradient_step_idx}")
                    save_dir = adapter_dir if cfg.use_lora else run_dir
                    processor.save_pretrained(run_dir)
                    vla.module.save_pretrained(save_dir)
                dist.barrier()
                if cfg.use_lora and distributed_state.is_main_process:
                    base_vla = AutoModelForVision2Seq.from_pretrained(
                        cfg.vla_path, torch_dtype=DTYPE, trust_remote_code=True
                    )
                    merged_vla = PeftModel.from_pretrained(base_vla, adapter_dir)
                    merged_vla = merged_vla.merge_and_unload()
                    checkpoint_dir = run_dir
                    if not cfg.save_latest_checkpoint_only:
                        checkpoint_dir = Path(f"{run_dir}--{gradient_step_idx}_chkpt")
                        os.makedirs(checkpoint_dir, exist_ok=True)
                        save_dataset_statistics(vla_dataset.dataset_statistics, checkpoint_dir)
                        processor.save_pretrained(checkpoint_dir)
                    merged_vla.save_pretrained(checkpoint_dir)
                    print(f"saved the checkpoint of step {gradient_step_idx} at {checkpoint_dir}")
                dist.barrier()

            if gradient_step_idx == cfg.max_steps:
                print(f"step {cfg.max_steps} reached")
                break


if __name__ == "__main__":
    finetune()
