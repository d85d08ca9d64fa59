"""The shapes that speed is compared on, as plain numbers for every side."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
  """A GPT-2-like decoder and the batch that it is trained on."""

  layers: int
  heads: int
  width: int
  vocab: int
  context: int
  batch: int
  bias: bool = True


SHAPES = {
  # nanoGPT's CPU recipe for characters.
  "nano": Shape(4, 4, 128, 65, 64, 12, bias=False),
  # 25M parameters at context 512.
  "25m": Shape(8, 8, 448, 12_288, 512, 4),
  # Nearly all head: its float32 logits alone would be 1,572 MiB.
  "head": Shape(2, 4, 256, 50_304, 1024, 8),
  # For a machine with an accelerator.
  "gpt2_124m": Shape(12, 12, 768, 50_304, 1024, 32),
}
