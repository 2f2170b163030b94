"""Post-processing of winners: two-step fine-tuning, and training one network alone."""

from __future__ import annotations

from hwnas.finetuning.plain import train_alone
from hwnas.finetuning.two_step import finetune
from hwnas.finetuning.winner import Winner, load_winner

__all__ = ["Winner", "finetune", "load_winner", "train_alone"]
