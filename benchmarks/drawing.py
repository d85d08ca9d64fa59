"""What the comparisons that draw share: shapes, prompts and weights."""

import json
import pathlib

import numpy as np

from benchmarks import tuning

SHAPES = {
  # So small that what is not arithmetic counts most.
  "mini": {"layers": 2, "width": 64, "mlp": 176, "heads": 4, "vocab": 512},
  # The demo's.
  "tiny": {"layers": 4, "width": 192, "mlp": 512, "heads": 6, "vocab": 2048},
  # That of the other comparisons.
  "small": tuning.SHAPE,
}
ROWS, PROMPT, NEW = 64, 64, 128
GROUP = 8  # completions of a prompt


def prepare(folder: pathlib.Path, shape: dict[str, int]) -> pathlib.Path:
  """Prompts and weights for both sides; where they are."""
  r = np.random.default_rng(0)
  lengths = r.integers(PROMPT // 4, PROMPT + 1, ROWS)
  lengths[0] = PROMPT
  given = {
    "shape": shape,
    "length": PROMPT + NEW,
    "new": NEW,
    "group": GROUP,
    "temperature": 0.7,
    "prompts": [r.integers(3, shape["vocab"], n).tolist() for n in lengths],
    "weights": str(folder / "weights.npz"),
  }
  np.savez(given["weights"], **weights(shape, r))
  path = folder / "given.json"
  path.write_text(json.dumps(given))
  return path


def weights(
  shape: dict[str, int], r: np.random.Generator
) -> dict[str, np.ndarray]:
  """Of a Llama, [out, in] of each layer, by the names of `transformers`."""
  D, F = shape["width"], shape["mlp"]
  normal = lambda *dims: r.normal(0, 0.05, dims).astype(np.float32)
  out = {"model.embed_tokens": normal(shape["vocab"], D)}
  for i in range(shape["layers"]):
    layer = f"model.layers.{i}"
    for name in ("q", "k", "v", "o"):
      out[f"{layer}.self_attn.{name}_proj"] = normal(D, D)
    for name, dims in (("gate", (F, D)), ("up", (F, D)), ("down", (D, F))):
      out[f"{layer}.mlp.{name}_proj"] = normal(*dims)
  return out
