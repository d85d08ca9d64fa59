"""Makes families/t5.npz: what transformers says of a tiny random T5 v1.1.

  python tests/goldens/make_t5.py

in an environment with torch 2.13 and transformers 5.23, all in float64. There
the head is tied to the table whatever config.json says; published v1.1
checkpoints have one of their own, and so has this one. Stored are config.json,
[(name, shape)], ids of source and target, the mask of the source, logits,
hidden states of both stacks, and 20 tokens of greedy continuation.
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

CONFIG = dict(
  architectures=["T5ForConditionalGeneration"],
  model_type="t5",
  vocab_size=48,
  d_model=16,
  d_kv=6,
  d_ff=24,
  num_layers=2,
  num_decoder_layers=2,
  num_heads=4,
  relative_attention_num_buckets=8,
  relative_attention_max_distance=6,
  feed_forward_proj="gated-gelu",
  tie_word_embeddings=False,
  decoder_start_token_id=0,
  pad_token_id=0,
  eos_token_id=1,
)


def main():
  families.widen()
  config = transformers.T5Config(**CONFIG)
  config._attn_implementation = "eager"
  net = transformers.T5ForConditionalGeneration(config).double().eval()
  net.lm_head.weight = torch.nn.Parameter(torch.zeros(48, 16))
  assert not net.config.scale_decoder_outputs
  skip = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
  tensors = []
  with torch.no_grad():
    for name, x in net.state_dict().items():
      if name not in skip:
        tensors.append((name, tuple(x.shape)))
        x.copy_(torch.from_numpy(tiny.weight(name, tuple(x.shape))))
  rng = np.random.default_rng(7)
  source_BS, ids_BT = rng.integers(2, 48, (3, 12)), rng.integers(2, 48, (3, 9))
  ids_BT[:, 0] = 0
  mask_BS = np.ones_like(source_BS)
  mask_BS[1, 9:] = 0
  mask_BS[2, :4] = 0
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
  np.savez_compressed(
    tiny.GOLDENS / "t5.npz",
    config=json.dumps(CONFIG),
    tensors=json.dumps(tensors),
    source_BS=source_BS,
    mask_BS=mask_BS,
    ids_BT=ids_BT,
    logits_BTV=out.logits.numpy(),
    source_LBSD=stack(out.encoder_hidden_states),
    hidden_LBTD=stack(out.decoder_hidden_states),
    greedy_T=row[0, 1:],
  )


if __name__ == "__main__":
  main()
