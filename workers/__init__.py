"""The compute side: turns requests into measurements and knows nobody.

Nothing in this package imports ray, hydra, omegaconf, pyarrow, datasets or `orchestrator`; a GPU box needs
this folder with torch and transformers alone. `protocol` holds what crosses the border.
"""
