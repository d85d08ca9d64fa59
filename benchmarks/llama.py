"""The Llama of `transformers` that the other sides of comparisons are."""

from typing import Any

import transformers


def config(given: dict[str, Any], **settings: Any) -> transformers.LlamaConfig:
  """Of the shape that both sides share."""
  s = given["shape"]
  return transformers.LlamaConfig(
    vocab_size=s["vocab"],
    hidden_size=s["width"],
    intermediate_size=s["mlp"],
    num_hidden_layers=s["layers"],
    num_attention_heads=s["heads"],
    num_key_value_heads=s["heads"],
    tie_word_embeddings=True,
    bos_token_id=1,
    pad_token_id=0,
    **settings,
  )
