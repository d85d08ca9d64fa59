"""Makes families/NAME.npz: what transformers says of tiny encoder-decoders.

  python tests/goldens/encoder_decoders.py [NAME ...]

in an environment with torch 2.13 and transformers 5.23, all in float64, the
weights drawn as by `families.py`. There the head of a T5 is tied to the table
whatever config.json says; published v1.1 checkpoints have one of their own, and
so has this one. Stored are config.json, [(name, shape)], ids of source and
target, the mask of the source, logits, hidden states of both stacks, and 20
tokens of greedy continuation.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.goldens import families
from tests.interop import tiny

_T5 = dict(
  architectures=["T5ForConditionalGeneration"],
  model_type="t5",
  vocab_size=48,
  d_model=16,
  d_kv=6,
  d_ff=24,
  num_layers=2,
  num_heads=4,
  relative_attention_num_buckets=8,
  relative_attention_max_distance=6,
  decoder_start_token_id=0,
  pad_token_id=0,
  eos_token_id=1,
)
CASES = {
  "t5": _T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
  # Of v1.0, whose files say neither of the two. Its encoder is the deeper one:
  # `generate` of transformers 5.23 makes a cache of as many layers as that has.
  "t5_first": _T5 | dict(num_layers=3, num_decoder_layers=2),
  # Of v1.1, made anew by transformers 5: what the table reads is not scaled.
  "t5_tied": _T5
  | dict(
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=True,
    scale_decoder_outputs=False,
  ),
  "bart": dict(
    architectures=["BartForConditionalGeneration"],
    model_type="bart",
    vocab_size=48,
    d_model=16,
    encoder_layers=3,
    encoder_attention_heads=2,
    encoder_ffn_dim=20,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=24,
    max_position_embeddings=32,
    scale_embedding=True,
    activation_function="gelu",
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=2,
  ),
}


def drawn(config, seed=0):
  """A model of transformers, and [(name, shape)] of its tensors."""
  made = getattr(transformers, config["architectures"][0])
  settings = made.config_class(**config)
  settings._attn_implementation = "eager"
  net = made(settings).double().eval()
  skip = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
  if config.get("tie_word_embeddings", True):
    skip.append("lm_head.weight")
  else:
    width = config["vocab_size"], config["d_model"]
    net.lm_head.weight = torch.nn.Parameter(torch.zeros(width))
  tensors = []
  with torch.no_grad():
    for name, x in net.state_dict().items():
      if not name.endswith(tuple(skip)):
        tensors.append((name, tuple(x.shape)))
        x.copy_(torch.from_numpy(tiny.weight(name, tuple(x.shape), seed)))
  return net, tensors


def golden(config):
  """What is stored of a case."""
  net, tensors = drawn(config)
  rng = np.random.default_rng(7)
  source_BS, ids_BT = rng.integers(3, 48, (3, 12)), rng.integers(3, 48, (3, 9))
  ids_BT[:, 0] = config["decoder_start_token_id"]
  mask_BS = np.ones_like(source_BS)
  mask_BS[1, 9:] = 0  # padding on the right
  mask_BS[2, :4] = 0  # padding on the left
  tensor = torch.from_numpy

  def run(source, mask, ids):
    return net(
      input_ids=tensor(source),
      attention_mask=tensor(mask),
      decoder_input_ids=tensor(ids),
      output_hidden_states=True,
      use_cache=False,
    )

  with torch.no_grad():
    out = run(source_BS, mask_BS, ids_BT)
    row = ids_BT[:1, :1]
    for _ in range(20):
      logits = run(source_BS[:1], mask_BS[:1], row).logits
      row = np.append(row, [[int(logits[0, -1].argmax())]], 1)
  assert out.logits.dtype == torch.float64
  stack = lambda states: np.stack([x.numpy() for x in states])
  return dict(
    config=json.dumps(config),
    tensors=json.dumps(tensors),
    source_BS=source_BS,
    mask_BS=mask_BS,
    ids_BT=ids_BT,
    logits_BTV=out.logits.numpy(),
    source_LBSD=stack(out.encoder_hidden_states),
    hidden_LBTD=stack(out.decoder_hidden_states),
    greedy_T=row[0, 1:],
  )


def main(names):
  families.widen()
  for name in names or CASES:
    np.savez_compressed(tiny.GOLDENS / f"{name}.npz", **golden(CASES[name]))
    size = (tiny.GOLDENS / f"{name}.npz").stat().st_size
    print(f"{name}: {size} bytes")


if __name__ == "__main__":
  main(sys.argv[1:])
