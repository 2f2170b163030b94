"""Started by a test: trains where memory ends ``ROOM`` MiB above what the imports took: ``train_without_memory.py ROOM FOLDER``."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from supernet_helpers import SETTINGS

from hwnas.config import DataSection, TrainSection
from hwnas.datasets.data import load_data
from hwnas.errors import HwnasError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets import processes
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.training import train_supernet

if __name__ == "__main__":
    room, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    data = load_data(DataSection(source="digits", image_size=64))
    supernet = MobileNetV3Supernet(MobileNetV3Space(**{**SETTINGS, "resolutions": [64]}))
    with processes.process_group(torch.device("cpu")):
        if processes.index() == processes.count() - 1:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + room * 2**20,) * 2)
        try:
            train_supernet(supernet, data, TrainSection(epochs=0.1, batch_size=900, bn_images=16), folder)
        except HwnasError as error:
            print(f"hwnas: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
