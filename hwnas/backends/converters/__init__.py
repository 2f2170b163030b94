"""Conversion scripts: each runs alone in the environment of its backend and imports nothing of hwnas.

``python -I SCRIPT.py request.json`` in a folder with ``model.pt2`` (a ``torch.export`` archive), ``example.npy`` and, for
int8, ``calibration.npy``; it writes the model files and ``result.json``. Optional: ``outputs.npy``, what the converted file
computes of ``example.npy``, which hwnas compares with torch.
"""
