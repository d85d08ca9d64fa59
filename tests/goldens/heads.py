"""Makes heads/NAME.npz: what transformers says of texts, tokens and spans.

  python tests/goldens/heads.py [NAME ...]

in an environment with torch 2.13 and transformers 5.23; weights and precision
are those of `families.py`. Each file holds config.json, [(name, shape)], ids
with their mask, kinds of tokens where there are several, and the numbers: of
texts [B, O], of tokens [B, T, O], of spans [B, T, 2]. Where an encoder reads
its first token, padding is on the right alone; so it is of encoder-decoders,
which are given a source and shift it themselves, and whose rows are two texts
with what ends them.
"""

import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.goldens import encoder_decoders, families
from tests.interop import tiny

FOLDER = pathlib.Path(__file__).parent / "heads"
_DECODER = families._SMALL | dict(
  num_hidden_layers=2, num_key_value_heads=2, pad_token_id=0
)
_BERT = families._BERT | dict(num_hidden_layers=2)
_THREE = dict(id2label={0: "good", 1: "fair", 2: "bad"})  # not as sorted
_GEMMA = _DECODER | dict(head_dim=6, sliding_window=4, query_pre_attn_scalar=9)
_MODERN = families.CASES["modernbert"][1] | dict(
  num_hidden_layers=2, classifier_pooling="cls"
)
_GPT2 = families.CASES["gpt2"][1] | dict(n_layer=2, pad_token_id=0)
_BASES = {
  "llama": ("Llama", _DECODER),
  "mistral": ("Mistral", _DECODER | dict(sliding_window=4, head_dim=8)),
  "qwen2": ("Qwen2", _DECODER),
  "qwen3": ("Qwen3", _DECODER | dict(head_dim=8)),
  "gemma2": ("Gemma2", _GEMMA),
  "gemma3": ("Gemma3Text", _GEMMA),
  "olmo2": ("Olmo2", _DECODER),
  "phi3": ("Phi3", _DECODER),
  "gpt2": ("GPT2", _GPT2),
  "bert": ("Bert", _BERT),
  "roberta": ("Roberta", _BERT | dict(type_vocab_size=1)),
  "modernbert": ("ModernBert", _MODERN),
  **{
    name: ("Bart" if name == "bart" else "T5", encoder_decoders.CASES[name])
    for name in tiny.ENCODER_DECODERS
  },
}
_TOLD = ("architectures", "model_type")  # by the class
_HEADS = {
  "text": "ForSequenceClassification",
  "token": "ForTokenClassification",
  "span": "ForQuestionAnswering",
}
_ALL = ("llama", "gpt2", "bert", "roberta", "modernbert")
_OF = {
  "text": tuple(_BASES),
  "token": _ALL,
  "span": (*_ALL, "mistral", "bart", "t5"),
}
ENCODERS = ("bert", "roberta", "modernbert")


def case(base, of):
  """(class of the model, its settings)."""
  stem, settings = _BASES[base]
  more = {} if of == "span" else _THREE
  if of == "text" and base in ("qwen3", "mistral"):  # a reward
    more = dict(num_labels=1, problem_type="regression")
  if of == "text" and base in ("roberta", "t5_first"):
    more = _THREE | dict(problem_type="multi_label_classification")
  own = {k: v for k, v in settings.items() if k not in _TOLD}
  return f"{stem}{_HEADS[of]}", own | more


def golden(base, of):
  """What is stored of a case."""
  kind, settings = case(base, of)
  net, said, tensors = families.model(kind, settings)
  rng = np.random.default_rng(7)
  ids_BT = rng.integers(3, 48, (3, 8))
  mask_BT = np.ones_like(ids_BT)
  mask_BT[1, 6:] = 0
  if base in ENCODERS or base in tiny.ENCODER_DECODERS:
    mask_BT[2, 5:] = 0
  else:
    mask_BT[2, :3] = 0
  ids_BT = np.where(mask_BT, ids_BT, said["pad_token_id"] or 0)
  place_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
  tensor, more = torch.from_numpy, {}
  if base in tiny.ENCODER_DECODERS:
    last_B = mask_BT.sum(1) - 1
    ids_BT[range(3), last_B] = ids_BT[range(3), [2, 1, 3]] = said[
      "eos_token_id"
    ]
    with torch.no_grad():
      out = net(tensor(ids_BT), attention_mask=tensor(mask_BT))
    return _stored(said, tensors, ids_BT, mask_BT, out)
  if said.get("type_vocab_size", 1) > 1:
    more["type_BT"] = rng.integers(0, said["type_vocab_size"], ids_BT.shape)
  if base == "roberta":
    place_BT = place_BT + said["pad_token_id"] + 1
  with torch.no_grad():
    out = net(
      tensor(ids_BT),
      attention_mask=tensor(mask_BT),
      position_ids=tensor(place_BT),
      **({"token_type_ids": tensor(more["type_BT"])} if more else {}),
    )
  return _stored(said, tensors, ids_BT, mask_BT, out) | more


def _stored(said, tensors, ids_BT, mask_BT, out):
  """What a file holds."""
  if "start_logits" in out:
    numbers = torch.stack([out.start_logits, out.end_logits], -1)
  else:
    numbers = out.logits
  assert numbers.dtype == torch.float64
  return dict(
    config=json.dumps(said),
    tensors=json.dumps(tensors),
    ids_BT=ids_BT,
    mask_BT=mask_BT,
    numbers=numbers.numpy(),
  )


def main(names):
  families.widen()
  FOLDER.mkdir(exist_ok=True)
  for of, bases in _OF.items():
    for base in bases:
      name = f"{base}_{of}"
      if not names or name in names:
        np.savez_compressed(FOLDER / f"{name}.npz", **golden(base, of))
        print(name, (FOLDER / f"{name}.npz").stat().st_size, "bytes")


if __name__ == "__main__":
  main(sys.argv[1:])
