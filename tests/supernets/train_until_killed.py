"""Run by a test in a process of its own, which the test kills: ``train_until_killed.py JOB_JSON FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import train_supernet

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    data = load_data(DataSection(**job["data"]))
    supernet = MobileNetV3Supernet(MobileNetV3Space(**job["space"]), seed=job["seed"])
    train_supernet(supernet, data, TrainSection(**job["train"]), Path(sys.argv[2]))
