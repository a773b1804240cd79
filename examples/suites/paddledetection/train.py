"""PaddleDetection's engine trains YOLOv3 for two steps under a plan, then as its tracker advises.

In an environment with paddledet: python -m examples.suites.paddledetection.train
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import paddle
from ppdet.core.workspace import load_config, merge_config
from ppdet.data.source.coco import COCODataSet
from ppdet.engine import Trainer

import unifreeze as uf
from examples.suites.moved import Moved, stop_gradient_after

HERE = Path(__file__).parent


def train_with_plan(cfg) -> None:
    """Train as tools/train.py does, with three more lines."""
    trainer = Trainer(cfg, mode="train")
    moved = Moved(trainer.model.backbone)
    handle = uf.FreezePlan.load(HERE / "plan.yaml").apply(trainer.model)
    handle.check_optimizer(trainer.optimizer)
    trainer.train()
    print(handle.verify())
    print(f"a plan: {moved}")


def train_as_advised(cfg, after_steps: int) -> str:
    """Train with `stop_gradient = True` on the backbone's features."""
    trainer = Trainer(cfg, mode="train")
    moved = Moved(trainer.model.backbone, after_steps=after_steps)
    with stop_gradient_after(trainer.model.backbone, after_steps=after_steps):
        trainer.train()
    return str(moved)


def random_images(folder: Path, count: int = 4) -> COCODataSet:
    """Write random images with a box each, as COCO has them."""
    random = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(count):
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), random.integers(0, 255, (96, 96, 3), np.uint8))
        images.append({"id": number, "file_name": name, "height": 96, "width": 96})
        box = {"id": number, "image_id": number, "category_id": 1 + number % 3, "iscrowd": 0}
        boxes.append({**box, "bbox": [8, 8, 64, 48], "area": 3072})
    kinds = [{"id": number + 1, "name": str(number)} for number in range(3)]
    document = {"images": images, "annotations": boxes, "categories": kinds}
    (folder / "boxes.json").write_text(json.dumps(document), encoding="utf-8")
    fields = ["image", "gt_bbox", "gt_class", "is_crowd"]
    return COCODataSet(str(folder), "", "boxes.json", data_fields=fields)


if __name__ == "__main__":
    paddle.set_device("cpu")
    paddle.seed(0)
    cfg = load_config(str(HERE / "yolov3.yml"))
    with TemporaryDirectory() as folder:
        merge_config({"TrainDataset": random_images(Path(folder)), "save_dir": folder})
        train_with_plan(cfg)
        print(f"x.stop_gradient = True from the start: {train_as_advised(cfg, 0)}")
        print(f"x.stop_gradient = True after a step: {train_as_advised(cfg, 1)}")
