"""Tiny folders of other people's models, made again from a seed.

Needs neither torch nor transformers: `tests/goldens/families.py`, which does,
makes the very same weights by `weight`.
"""

import json
import pathlib
import zlib

import numpy as np
from safetensors.numpy import save_file

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "families"
ENCODER_DECODERS = ("bart", "t5", "t5_first", "t5_tied")
HEADS = GOLDENS.parent / "heads"
ADAPTERS = GOLDENS.with_name("peft")


def weight(name, shape, seed=0):
  """A tensor drawn from its name: scales about 1, all else about 0."""
  key = zlib.crc32(name.encode())
  rng = np.random.default_rng([seed, key])
  draw = rng.normal(size=shape)
  if len(shape) > 1:
    return draw * 0.7 / np.sqrt(min(shape[-2:]))
  is_scale = name.endswith("weight") and (
    "norm" in name.lower() or "ln_" in name
  )
  return 0.3 * draw + (1.0 if is_scale else 0.0)


def adapter(name, shape):
  """A tensor of adapters drawn from its name: lengths and scales about 1."""
  is_scale = name.endswith(("magnitude_vector", "ia3_l"))
  key = zlib.crc32(name.encode())
  draw = np.random.default_rng([1, key]).normal(size=shape)
  return 0.4 * draw + (1.0 if is_scale else 0.0)


def golden(name, folder=GOLDENS):
  """What transformers says of a model, with its config.json and its tensors."""
  with np.load(folder / f"{name}.npz") as found:
    out = dict(found)
  out["config"] = json.loads(str(out["config"]))
  out["tensors"] = json.loads(str(out["tensors"]))
  return out


def write(folder, config, tensors, dtype=np.float64, files=1, change=None):
  """Writes config.json and safetensors; returns the path.

  Args:
    folder: that is made.
    config: of config.json.
    tensors: [(name, shape)].
    dtype: of the tensors.
    files: over how many they are spread, with an index where several.
    change: (name, tensor) -> tensor.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  change = change or (lambda name, x: x)
  arrays = {
    name: np.ascontiguousarray(change(name, weight(name, shape)).astype(dtype))
    for name, shape in tensors
  }
  if files == 1:
    save_file(arrays, folder / "model.safetensors")
    return folder
  listed = {}
  for i in range(files):
    name = f"model-{i + 1:05}-of-{files:05}.safetensors"
    part = dict(list(arrays.items())[i::files])
    save_file(part, folder / name)
    listed |= dict.fromkeys(part, name)
  index = {"metadata": {}, "weight_map": listed}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


def peft(folder, name, change=None, **said):
  """Writes a golden's folder of adapters; returns the path.

  Args:
    folder: that is made.
    name: of the golden.
    change: (name, tensor) -> tensor.
    **said: other values in adapter_config.json.
  """
  found = golden(name, ADAPTERS)
  folder.mkdir(parents=True, exist_ok=True)
  config = json.dumps(found["config"] | said)
  (folder / "adapter_config.json").write_text(config)
  change = change or (lambda name, x: x)
  arrays = {
    n: np.ascontiguousarray(change(n, adapter(n, shape)))
    for n, shape in found["tensors"]
  }
  save_file(arrays, folder / "adapter_model.safetensors")
  return folder


def tokenizer(folder, bos="<s>", eos="</s>", single="<s> $A"):
  """Writes a byte-level tokenizer.json of 259 ids; it puts bos first.

  Args:
    folder: that is there.
    bos: its name.
    eos: its name.
    single: what is put around a text, in the names of `bos` and `eos` here.
  """
  from tokenizers import (
    AddedToken,
    decoders,
    models,
    pre_tokenizers,
    processors,
    Tokenizer,
  )

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {letter: i + 3 for i, letter in enumerate(letters)}
  made = Tokenizer(models.BPE({"<pad>": 0, bos: 1, eos: 2, **vocab}, []))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(
    [AddedToken(word, special=True) for word in ("<pad>", bos, eos)]
  )
  made.post_processor = processors.TemplateProcessing(
    single=single.replace("</s>", eos).replace("<s>", bos),
    special_tokens=[(bos, 1), (eos, 2)],
  )
  made.save(str(folder / "tokenizer.json"))
  said = {"bos_token": bos, "eos_token": eos, "pad_token": "<pad>"}
  (folder / "tokenizer_config.json").write_text(json.dumps(said))


def whole(folder, name="llama3", vocab=264, **how):
  """Writes a folder that a run can begin from."""
  found = golden(name)
  config = found["config"] | {"vocab_size": vocab}
  # Two feed-forwards in one tensor, or three of attention, are 48, too.
  of_words = lambda n: not n.endswith(("gate_up_proj.weight", "c_attn.weight"))
  tensors = [
    (n, [vocab if size == 48 and of_words(n) else size for size in shape])
    for n, shape in found["tensors"]
  ]
  write(folder, config, tensors, **how)
  tokenizer(folder)
  return folder
