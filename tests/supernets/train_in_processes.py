"""Started by a test under torchrun: ``train_in_processes.py JOB_JSON FOLDER``; every process saves what it ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import load_data
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets import processes
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import train_supernet

if __name__ == "__main__":
    job, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    with processes.process_group(torch.device("cpu")):
        with processes.first_before_others():
            data = load_data(DataSection(**job["data"]))
        for name, train in job["trainings"].items():
            supernet = MobileNetV3Supernet(MobileNetV3Space(**job["spaces"][name]), seed=job["seed"])
            report = train_supernet(supernet, data, TrainSection(**train), folder / name)
            supernet.save(
                folder / f"{name}-{processes.index()}", {"report": report.accuracies, "of": processes.count()}
            )
