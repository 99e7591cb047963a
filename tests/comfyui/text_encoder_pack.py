"""A custom node for test_workflows_run.py: a CLIP of no weight at all.

The text encoders of SD1.5 and SDXL are 0.2 and 1.6 GB in ComfyUI's fixed layouts, whatever is in
them, so the tiny checkpoints have none. This one gives each text random numbers of its own, in the
shapes that the models read.
"""

import torch


class StandInEncoder:
    """The two methods of a CLIP that CLIPTextEncode calls."""

    def __init__(self, width, pooled):
        self.width, self.pooled = width, pooled

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        generator = torch.Generator().manual_seed(sum(text.encode()))
        tokens = torch.randn(1, 77, self.width, generator=generator)
        return [[tokens, {"pooled_output": torch.randn(1, self.pooled, generator=generator)}]]


class StandInTextEncoder:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CLIP",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {"max": 4096}), "pooled": ("INT", {"max": 4096})}}

    def make(self, width, pooled):
        return (StandInEncoder(width, pooled),)


NODE_CLASS_MAPPINGS = {"StandInTextEncoder": StandInTextEncoder}
