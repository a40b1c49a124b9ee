"""Encoders and cross-encoders: where checkpoints are, how they load, how they compute."""
