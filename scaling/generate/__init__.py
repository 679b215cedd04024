"""Text from trained models: sampling, beam search, and its loss under a larger model.

from scaling import weights
from scaling.generate import generate

model = weights.load("results/abilities/runs/3f2a91c04d7e")
[[sample]] = generate(model, "The king", max_tokens=40, top_p=0.9)
print(sample.text)
"""

from scaling.generate.continuation import Sample, generate
from scaling.generate.decoding import Decoding
from scaling.generate.judge import Judged, bits_per_byte, judged, passages, repeated

__all__ = [
    "Decoding",
    "Judged",
    "Sample",
    "bits_per_byte",
    "generate",
    "judged",
    "passages",
    "repeated",
]
