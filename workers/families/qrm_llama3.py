"""QRM on Llama 3: as on Llama 3.1.

The reference holds the transform in bfloat16 and can only run under autocast; here the head is float32 for both.
"""

from __future__ import annotations

from workers.families.qrm_llama31 import ENGINES, KIND, SCORING, TIES, VERSION, head, values, wanted

__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]
