"""Which data set a row came from, kept through merging, splitting and tokenization.

The name travels in a column beside the row. It is on disk too where ``tokenized_path`` saves the rows. The Trainer
never sees it: ``take_tasks`` turns it into row numbers and takes it off, since a collator would hand it to the model.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.data_utils import DatasetModule
    from ..data.processor.processor_utils import DatasetProcessor
    from ..hparams import DataArguments

SOURCE = "_source"


def name_source(dataset: "Dataset", name: str, data_args: "DataArguments") -> "Dataset":
    """Write ``name`` beside every row. Off: the data set itself."""
    if not data_args.name_sources:
        return dataset

    return dataset.add_column(SOURCE, [name] * len(dataset))


def keep_sources(processor: "DatasetProcessor", data_args: "DataArguments") -> Any:
    """The processor, keeping the rows' sources. Off: the processor itself."""
    return SourceKeeper(processor) if data_args.name_sources else processor


class SourceKeeper:
    """Runs a processor on one data set's rows at a time, so that rows which it drops shift no other row's source."""

    def __init__(self, processor: "DatasetProcessor") -> None:
        self.processor = processor

    def preprocess_dataset(self, examples: Any) -> dict[str, list[Any]]:
        names = examples[SOURCE]
        columns = [column for column in examples if column != SOURCE]
        made: dict[str, list[Any]] = {}
        for name, run in groupby(range(len(names)), key=names.__getitem__):
            rows = list(run)
            part = {column: examples[column][rows[0] : rows[-1] + 1] for column in columns}
            out = self.processor.preprocess_dataset(part)
            count = len(next(iter(out.values()), []))
            if count == 0:
                continue

            for column, values in {**out, SOURCE: [name] * count}.items():
                made.setdefault(column, []).extend(values)

        return made

    def print_data_example(self, example: dict[str, Any]) -> None:
        self.processor.print_data_example(example)


def take_tasks(
    dataset_module: "DatasetModule", tasks: Sequence[str], evaluated: Sequence[str] | None = None
) -> dict[str, list[int]]:
    """Row numbers of the training set by task; the evaluation set becomes one set a task. Changes the module in place.

    Args:
        dataset_module: what ``get_dataset`` returned.
        tasks: the names of ``dataset:``, in order.
        evaluated: the names of ``eval_dataset:``, each for the task at its place unless they are the tasks themselves;
            None where ``val_size`` split the rows.

    Raises:
        ValueError: rows without a source, of another data set, or a task without rows to train or to evaluate on.
    """
    train = dataset_module["train_dataset"]
    rows = _rows_by_source(train, "training")
    _same_names(rows, tasks, "train on")
    dataset_module["train_dataset"] = train.remove_columns(SOURCE)

    found = dataset_module["eval_dataset"]
    evaluated = tasks if evaluated is None or set(evaluated) == set(tasks) else evaluated
    task_of = dict(zip(evaluated, tasks, strict=True))
    parts: dict[str, Any] = {}
    for part in found.values() if isinstance(found, dict) else [found]:
        for name, numbers in _rows_by_source(part, "evaluation").items():
            parts[task_of.get(name, name)] = part.select(numbers).remove_columns(SOURCE)

    _same_names(parts, tasks, "evaluate on")
    dataset_module["eval_dataset"] = {task: parts[task] for task in tasks}
    return {task: rows[task] for task in tasks}


def _rows_by_source(dataset: "Dataset", purpose: str) -> dict[str, list[int]]:
    if SOURCE not in dataset.column_names:
        raise ValueError(
            f"The {purpose} data does not say which data set its rows came from: it was tokenized without "
            "`dynamic_schedule`. Remove `tokenized_path`'s folder and tokenize again."
        )

    found: dict[str, list[int]] = {}
    for number, name in enumerate(dataset[SOURCE]):
        found.setdefault(name, []).append(number)

    return found


def _same_names(found: dict[str, Any], tasks: Sequence[str], purpose: str) -> None:
    missing = [task for task in tasks if task not in found]
    strange = [name for name in found if name not in tasks]
    if missing or strange:
        raise ValueError(
            f"`dynamic_schedule` needs rows of every data set to {purpose}. Missing: {', '.join(missing) or 'none'}; "
            f"not named in `dataset`: {', '.join(strange) or 'none'}. A larger `val_size`, or an `eval_dataset` for "
            "each data set in the order of `dataset`, gives every one its own."
        )
