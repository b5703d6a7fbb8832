"""Reward-model families: which requests an example needs, and how their outputs become scores."""
