"""Makes the checkpoint that fine-tuning starts from: the general tasks, learned from scratch on one core.

python -m toy_world.pretrain --out DIR [--seed 0] [--steps 540]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction, with_patches
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
from torch import nn
from torch.nn import functional as F

from .batches import STATISTICS, encode
from .scenes import CELL, COLOURS, SIZE
from .tasks import CELLS, SHAPES, Sample, World, make_world
from .tokenizer import SPACE, make_tokenizer

VOCABULARY = 32064
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 32000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.12,
}
STEPS, BATCH, RATE, SAMPLES, GROUND = 540, 48, 4e-3, 6000, 250
DEPTHS, LATER, COLOUR, HELP = (1, 2), (3,), 12, 2.0
"""Layers whose input is read out at the word that names a colour, and where the answer begins; that word's place in a
prompt; the weight of it all."""
RARE = 29871 + 1 + 94  # ids from here on are rare characters, of which only the last 256 are actions
KINDS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def make_model(seed: int = 0, **text: Any) -> OpenVLAForActionPrediction:
    """The untrained model, float32; ``text`` changes the language model's configuration."""
    torch.manual_seed(seed)
    config = OpenVLAConfig(text_config=TEXT | text, norm_stats={"general": STATISTICS})
    return OpenVLAForActionPrediction(config)


def make_processor() -> PrismaticProcessor:
    return PrismaticProcessor(PrismaticImageProcessor(), make_tokenizer())


class Columns(nn.Module):
    """The vocabulary in use, as two small tables in place of two of 32064 rows; everything else has one common row.

    The common row stands for every token that never occurs, so the loss is that of the whole vocabulary exactly.
    Beside them lie the read-outs that help early layers to find a thing, which are thrown away with this.
    """

    def __init__(self, used: torch.Tensor, width: int) -> None:
        super().__init__()
        self.used = used
        self.column = torch.full((VOCABULARY,), len(used)).scatter(0, used, torch.arange(len(used)))
        self.embedding = nn.Parameter(torch.randn(len(used) + 1, width) * 0.5)
        self.head = nn.Parameter(torch.randn(len(used) + 1, width) * 0.02)
        self.cell = nn.ModuleDict({str(depth): nn.Linear(width, CELLS) for depth in (*DEPTHS, *LATER)})

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy of hidden states [M, D] over the vocabulary."""
        logits = F.linear(hidden, self.head)
        rest = logits[:, -1:] + math.log(VOCABULARY - len(self.used))
        return F.cross_entropy(torch.cat([logits[:, :-1], rest], dim=1), self.column[targets])

    def help(
        self,
        states: list[torch.Tensor],
        depths: tuple[int, ...],
        positions: torch.Tensor | int,
        cells: torch.Tensor,
    ) -> torch.Tensor:
        """How far some layers are from knowing, at a position of each row, in which cell [B] the thing meant lies."""
        rows = torch.arange(len(cells))
        read = (F.cross_entropy(self.cell[str(n)](states[n][rows, positions]), cells) for n in depths)
        return HELP * sum(read, torch.zeros(()))

    @torch.no_grad()
    def write_to(self, llm: nn.Module) -> None:
        for weight, table in ((llm.model.embed_tokens.weight, self.embedding), (llm.lm_head.weight, self.head)):
            weight.copy_(table[self.column])


def words_in_use(processor: PrismaticProcessor) -> torch.Tensor:
    """Every token but the fillers and the rare characters that are no action: each gets a row of its own."""
    ids = [index for piece, index in processor.tokenizer.get_vocab().items() if not piece.startswith("<unused")]
    first_action = VOCABULARY - 64 - 256
    return torch.tensor(sorted(index for index in ids if index < RARE or first_action <= index < VOCABULARY - 64))


def train_general(
    model: OpenVLAForActionPrediction,
    world: World,
    processor: PrismaticProcessor,
    steps: int = STEPS,
    batch: int = BATCH,
    rate: float = RATE,
    samples: int = SAMPLES,
) -> list[float]:
    """Trains every parameter in place on the general tasks; returns the losses.

    In three steps, each of which would take several times as long without the one before: ``align``, ``ground``, and
    the tasks themselves.
    """
    drawn = world.samples("general", samples)
    data = encode(drawn, processor.tokenizer, processor.image_processor.apply_transform)
    data["cell"] = torch.tensor([sample.things[sample.named].cell for sample in drawn])
    columns, llm = Columns(words_in_use(processor), model.config.text_config.hidden_size), model.language_model
    model.train()
    align(model, processor, drawn, data["pixel_values"], columns, steps=min(300, 3 * steps))
    ground(model, data, columns, steps=min(GROUND, steps))
    parameters = [
        *(p for name, p in model.named_parameters() if "embed_tokens" not in name and "lm_head" not in name),
        *columns.parameters(),
    ]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    generator, losses = torch.Generator().manual_seed(world.seed), []
    for _ in range(steps):
        picked = torch.randint(samples, (batch,), generator=generator)
        rows = {name: tensor[picked] for name, tensor in data.items()}
        hidden, states, count = decode(model, columns, rows, rows["input_ids"].shape[1])
        targets = rows["labels"][:, 1:]
        where = targets != -100
        loss = columns.loss(hidden[:, count:-1][where], targets[where])
        optimizer.zero_grad()
        answering = count + where.int().argmax(dim=1)
        told = columns.help(states, DEPTHS, count + COLOUR, rows["cell"])
        told = told + columns.help(states, LATER, answering, rows["cell"])
        (loss + told).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    columns.write_to(llm)
    model.eval()
    return losses


def decode(
    model: OpenVLAForActionPrediction, columns: Columns, rows: dict[str, torch.Tensor], length: int
) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Patches and the first ``length`` tokens through the language model.

    Returns:
        The final hidden state [B, S, D], what went into and came out of each layer, and how many patches there are.
    """
    patches = model.projector(model.vision_backbone(rows["pixel_values"]))
    mask = rows["attention_mask"][:, :length]
    embeddings = with_patches(columns.embedding[columns.column[rows["input_ids"][:, :length]]], patches)
    states, decoder = [embeddings], model.language_model.model

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        states.append(out[0] if isinstance(out, tuple) else out)

    handles = [layer.register_forward_hook(keep) for layer in decoder.layers]
    hidden = decoder(
        inputs_embeds=embeddings,
        attention_mask=with_patches(mask, mask.new_ones(patches.shape[:2])),
        use_cache=False,
    ).last_hidden_state
    for handle in handles:
        handle.remove()
    return hidden, states, patches.shape[1]


def ground(
    model: OpenVLAForActionPrediction, data: dict[str, torch.Tensor], columns: Columns, steps: int, rate: float = 4e-3
) -> float:
    """Teaches the lowest layers, at the word that names a colour, in which cell it lies; returns the last loss.

    The layers above are left out, and so are the words behind that one.
    """
    decoder = model.language_model.model
    layers, decoder.layers = decoder.layers, decoder.layers[: max(DEPTHS)]
    try:
        parameters = [*decoder.layers.parameters(), *columns.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
        generator = torch.Generator().manual_seed(2)
        for _ in range(steps):
            picked = torch.randint(len(data["cell"]), (64,), generator=generator)
            rows = {name: tensor[picked] for name, tensor in data.items()}
            _, states, count = decode(model, columns, rows, COLOUR + 1)
            loss = columns.help(states, DEPTHS, count + COLOUR, rows["cell"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    finally:
        decoder.layers = layers
    return loss.item()


def align(
    model: OpenVLAForActionPrediction,
    processor: PrismaticProcessor,
    samples: list[Sample],
    pixels: torch.Tensor,
    columns: Columns,
    steps: int,
) -> float:
    """Teaches backbone and projector to say what stands where in the words' own embeddings; returns the last loss.

    As vision and language are aligned before a large model of this kind is trained on actions. A patch says the
    embeddings of its thing's colour and shape, or the common one where it is empty, and a vector of its row and column.
    """
    side, width = SIZE // CELL, columns.embedding.shape[1]
    generator = torch.Generator().manual_seed(1)
    rows, across = torch.randn(2, side, width, generator=generator) * 0.5
    ids = [[processor.tokenizer.convert_tokens_to_ids(SPACE + word) for word in kind.split()] for kind in KINDS]
    said = columns.embedding.detach()
    kinds = torch.cat([said[columns.column[torch.tensor(ids)]].sum(dim=1), said[-1:]])
    places = (rows[:, None] + across[None, :]).flatten(0, 1)
    seen = torch.full((len(samples), side * side), len(KINDS))
    for row, sample in enumerate(samples):
        for thing in sample.things:
            seen[row, thing.cell] = KINDS.index(thing.name)
    parameters = [*model.vision_backbone.parameters(), *model.projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        drawn = torch.randint(len(samples), (64,), generator=generator)
        loss = F.mse_loss(model.projector(model.vision_backbone(pixels[drawn])), kinds[seen[drawn]] + places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.item()


def save(model: OpenVLAForActionPrediction, processor: PrismaticProcessor, out: Path) -> Path:
    """The folder that ``--vla_path`` takes."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "dataset_statistics.json").write_text(json.dumps({"general": STATISTICS}))
    return out


def pretrain(out: Path, seed: int = 0, steps: int = STEPS, samples: int = SAMPLES) -> Path:
    """Makes the world of a seed, trains on its general tasks, saves the checkpoint at ``out`` and returns it."""
    model, processor = make_model(seed), make_processor()
    train_general(model, make_world(seed), processor, steps, samples=samples)
    return save(model, processor, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    begun = time.perf_counter()
    pretrain(options.out, options.seed, options.steps)
    print(f"saved {options.out} after {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
