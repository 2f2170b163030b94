"""Artifacts: exported model files, checked, measured and packed with everything needed to check them again."""
