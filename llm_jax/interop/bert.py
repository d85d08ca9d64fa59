"""BERT and RoBERTa, with the head that says what a mask hides.

BERT: arXiv:1810.04805; RoBERTa: arXiv:1907.11692. Sources of the defaults: the
configuration classes of transformers 5.23.
"""

import functools
from typing import Any

from llm_jax.interop import family, heads
from llm_jax.interop.family import Family, Keys, Settings, Told
from llm_jax.interop.heads import Head
from llm_jax.interop.lines import Line

# What each of them is, in our settings.
_ALWAYS: Settings = {
  "sees": "all",
  "norm": "layer",
  "norm_bias": True,
  "norm_at": "sum",
  "embed_norm": True,
  "positions": "learned",
  "activation": "gelu_exact",
  "qkv_bias": True,
  "out_bias": True,
  "mlp_bias": True,
}


def _settings(keys: Keys) -> Settings:
  keys.must("hidden_act", "gelu")
  keys.must("position_embedding_type", "absolute")
  keys.must("is_decoder", False)
  keys.must("add_cross_attention", False)
  keys.must("tie_word_embeddings", True)
  # Of training, and of a pooler's size, which is the model's.
  keys.skip("hidden_dropout_prob", "attention_probs_dropout_prob")
  keys.skip("classifier_dropout", "directionality", "summary_type")
  keys.skip(*(name for name in keys.config if name.startswith("pooler_")))
  roberta = keys.architecture.startswith("Roberta")
  offset = keys.get("pad_token_id", 1) + 1 if roberta else 0
  head = keys.architecture.endswith("ForMaskedLM")
  return {
    **_ALWAYS,
    "num_layers": keys.get("num_hidden_layers", 12),
    "embed_dim": keys.get("hidden_size", 768),
    "mlp_dim": keys.get("intermediate_size", 3072),
    "num_heads": keys.get("num_attention_heads", 12),
    "vocab_size": keys.get("vocab_size", 50_265 if roberta else 30_522),
    "max_length": keys.get("max_position_embeddings", 512) - offset,
    "norm_eps": keys.get("layer_norm_eps", 1e-12),
    "token_types": keys.get("type_vocab_size", 2),
    "position_offset": offset,
    "head_dense": head,
    "head_bias": head,
    "tied": True,
  }


_KNOWN = (
  *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads"),
  *("head_dim", "vocab_size", "max_length", "norm_eps", "token_types"),
  *("position_offset", "head_dense", "head_dense_bias", "head_bias", "tied"),
  *_ALWAYS,
)


def _config(name: str, settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = Told(settings, "BERT's")
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  heads, width = settings["num_heads"], settings["embed_dim"]
  s.must(num_kv_heads=(None, 0, heads), head_dim=(None, 0, width // heads))
  s.must(tied=(True, None), head_dense_bias=(True, None))
  head, offset = s.get("head_dense", False), s.get("position_offset", 0)
  s.must(head_bias=(True,) if head else (False, None))
  if not s.get("token_types", 0):
    raise ValueError("--model.token_types=0: those of BERT's kind have some")
  if (offset > 0) != (name == "Roberta"):
    raise ValueError(
      f"--model.position_offset={offset}: a RoBERTa has 1 or more, a BERT 0"
    )
  out = {
    "architectures": [f"{name}{'ForMaskedLM' if head else 'Model'}"],
    "model_type": name.lower(),
    "num_hidden_layers": settings["num_layers"],
    "hidden_size": width,
    "intermediate_size": settings["mlp_dim"],
    "num_attention_heads": heads,
    "vocab_size": settings["vocab_size"],
    "max_position_embeddings": settings["max_length"] + offset,
    "type_vocab_size": settings["token_types"],
    "layer_norm_eps": settings["norm_eps"],
    "hidden_act": "gelu",
    "tie_word_embeddings": True,
  }
  if offset:
    out["pad_token_id"] = offset - 1
  return out


def _lines(settings: Settings) -> list[Line]:
  roberta = settings.get("position_offset", 0) > 0
  root = "roberta." if roberta else "bert."
  table, layer = f"{root}embeddings.", f"{root}encoder.layer.{{layer}}."
  out = [
    Line("embedding", f"{table}word_embeddings.weight", "W E"),
    Line("positions", f"{table}position_embeddings.weight", "P E"),
    Line("types", f"{table}token_type_embeddings.weight", "Y E"),
  ]
  if settings.get("output_dense") == "tanh" and not roberta:
    pooler = "bert.pooler.dense."
    out.append(Line("output_dense/kernel", f"{pooler}weight", "_ D"))
    out.append(Line("output_dense/bias", f"{pooler}bias", "_"))
  norms = {
    "embed_norm": f"{table}LayerNorm",
    "blocks/attention_norm": f"{layer}attention.output.LayerNorm",
    "blocks/mlp_norm": f"{layer}output.LayerNorm",
  }
  head = "cls.predictions."
  if settings.get("head_dense"):
    dense, norm = f"{head}transform.dense", f"{head}transform.LayerNorm"
    if roberta:
      head, dense, norm = "lm_head.", "lm_head.dense", "lm_head.layer_norm"
    norms["head_norm"] = norm
    out += [
      Line("head_dense/kernel", f"{dense}.weight", "_ D"),
      Line("head_dense/bias", f"{dense}.bias", "_"),
      Line("head_bias", f"{head}bias", "V"),
    ]
  for ours, theirs in norms.items():
    out.append(Line(f"{ours}/scale", f"{theirs}.weight", "D"))
    out.append(Line(f"{ours}/bias", f"{theirs}.bias", "D"))
  maps = (
    ("attention/query", "attention.self.query", "NH", "D"),
    ("attention/key", "attention.self.key", "KH", "D"),
    ("attention/value", "attention.self.value", "KH", "D"),
    ("attention/out", "attention.output.dense", "D", "NH"),
    ("mlp/up", "intermediate.dense", "F", "D"),
    ("mlp/down", "output.dense", "D", "F"),
  )
  for ours, theirs, outputs, inputs in maps:
    path, name = f"blocks/{ours}", f"{layer}{theirs}"
    out.append(Line(f"{path}/kernel", f"{name}.weight", f"{outputs} {inputs}"))
    out.append(Line(f"{path}/bias", f"{name}.bias", outputs))
  return out


def _family(name: str, prefix: str, head: str, text: Head) -> Family:
  others = (
    Head("token", "ForTokenClassification", "classifier"),
    Head("span", "ForQuestionAnswering", "qa_outputs"),
  )
  return Family(
    name=name.lower(),
    architectures=(f"{name}ForMaskedLM", f"{name}Model"),
    settings=_settings,
    config=functools.partial(_config, name),
    lines=_lines,
    prefix=prefix,
    # Of the next sentence, and of older files.
    extra=(
      *("pooler.dense.weight", "pooler.dense.bias", "position_ids"),
      *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    ),
    known=_KNOWN,
    copies=(
      (f"{head}decoder.weight", "embedding"),
      (f"{head}decoder.bias", "head_bias"),
    ),
    renamed=(
      ("LayerNorm.gamma", "LayerNorm.weight"),
      ("LayerNorm.beta", "LayerNorm.bias"),
    ),
    heads=heads.named((name,), text, *others),
  )


_TEXT = "ForSequenceClassification"
BERT = _family(
  *("Bert", "bert.", "cls.predictions."),
  Head("text", _TEXT, "classifier", dense="tanh"),
)
ROBERTA = _family(
  *("Roberta", "roberta.", "lm_head."),
  Head(
    *("text", _TEXT, "classifier.out_proj"),
    dense="tanh",
    lines=heads.dense("classifier.dense"),
  ),
)
