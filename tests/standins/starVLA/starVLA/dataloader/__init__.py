"""The loader of a run."""

from pathlib import Path

from torch.utils.data import DataLoader


def build_dataloader(cfg, dataset_py="lerobot_datasets_oxe"):
    if dataset_py != "lerobot_datasets":
        raise NotImplementedError(f"the stand-in has no data sets {dataset_py}")
    from starVLA.dataloader.lerobot_datasets import collate_fn, get_vla_dataset

    vla_dataset_cfg = cfg.datasets.vla_data
    vla_dataset = get_vla_dataset(data_cfg=vla_dataset_cfg)
    vla_dataset.save_dataset_statistics(Path(cfg.output_dir) / "dataset_statistics.json")
    return DataLoader(
        vla_dataset,
        batch_size=vla_dataset_cfg.per_device_batch_size,
        collate_fn=collate_fn,
        num_workers=vla_dataset_cfg.get("num_workers", 0),
    )
