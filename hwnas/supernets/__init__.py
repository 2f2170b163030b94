"""Supernets: weight sharing, training by progressive shrinking, extraction, recalibration and evaluation."""
