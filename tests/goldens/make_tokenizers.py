"""Makes tokenizers.json: ids that transformers gives, for older folders.

  python tests/goldens/make_tokenizers.py

in an environment with transformers 5.23. Each case holds the files of a folder
without tokenizer.json (base64), {text: ids} of texts alone, and `whole`, the
ids of one with what transformers puts around it.
"""

import argparse
import base64
import io
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers
import transformers
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

CORPUS = [
  *pathlib.Path(argparse.__file__)
  .read_text(encoding="utf-8")[:20_000]
  .split("\n"),
  *["The quick brown fox, na\u00efve caf\u00e9: \u81ea\u7136 jumps."] * 20,
]
TEXTS = [
  "the quick brown fox jumps",
  "def f(x):\n    return x + 1",
  "The argument of a parser, and Its OPTIONS; 3.14",
  "na\u00efve caf\u00e9 \u81ea\u7136",
  "a  b   c",
]


def pieces(**settings):
  """A model of SentencePiece, small."""
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS),
    model_writer=out,
    vocab_size=380,
    minloglevel=3,
    num_threads=1,
    normalization_rule_name="identity",
    **settings,
  )
  return out.getvalue()


def llama(folder):
  """Llama 2's slow tokenizer: the library itself, in its legacy form."""
  model = pieces(
    model_type="bpe",
    byte_fallback=True,
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    split_digits=True,
  )
  (folder / "tokenizer.model").write_bytes(model)
  said = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": {"__type": "AddedToken", "content": "<s>"},
    "eos_token": {"__type": "AddedToken", "content": "</s>"},
    "add_bos_token": True,
    "added_tokens_decoder": {
      "380": {"content": "<|im_start|>", "special": True},
      "381": {"content": "<tool>", "special": False, "normalized": False},
    },
  }
  made = SentencePieceBackend(
    vocab_file=str(folder / "tokenizer.model"),
    legacy=True,
    **dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>"),
  )
  token = tokenizers.AddedToken("<|im_start|>", special=True)
  made.add_tokens([token], special_tokens=True)
  made.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
  return said, made, [*TEXTS, " a the", "call <tool> now", "<tool>the<tool>"]


def t5(folder):
  model = pieces(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  (folder / "spiece.model").write_bytes(model)
  said = {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}
  (folder / "tokenizer_config.json").write_text(json.dumps(said))
  made = transformers.T5Tokenizer.from_pretrained(folder)
  # To T5's own model a line's end is a space; not to one of "identity".
  return said, made, [text for text in TEXTS if "\n" not in text]


def bert(folder):
  words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  words += [*"abcdefghijklmnopqrstuvwxyz0123456789.,;:()+=", "\u81ea"]
  words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
  words += ["the", "quick", "brown", "fox", "jump", "##s", "nai", "caf"]
  (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
  said = {"do_lower_case": True, "model_max_length": 512}
  (folder / "tokenizer_config.json").write_text(json.dumps(said))
  made = transformers.BertTokenizer.from_pretrained(folder)
  return said, made, [*TEXTS, "[CLS] x"]


def _of_bytes(folder, special):
  library = tokenizers.ByteLevelBPETokenizer()
  library.train_from_iterator(
    CORPUS, vocab_size=330, special_tokens=special, show_progress=False
  )
  library.save_model(str(folder))


def gpt2(folder):
  _of_bytes(folder, ["<|endoftext|>"])
  return {}, transformers.GPT2Tokenizer.from_pretrained(folder), TEXTS


def roberta(folder):
  _of_bytes(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
  said = {"tokenizer_class": "RobertaTokenizer"}
  (folder / "tokenizer_config.json").write_text(json.dumps(said))
  return said, transformers.RobertaTokenizer.from_pretrained(folder), TEXTS


def main():
  out = {}
  for make in (llama, t5, bert, gpt2, roberta):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      said, made, texts = make(folder)
      (folder / "tokenizer_config.json").write_text(json.dumps(said))
      files = {
        path.name: base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.iterdir())
      }
      encode = lambda text, made=made: made.encode(
        text, add_special_tokens=False
      )
      out[make.__name__] = {
        "files": files,
        "size": len(made),
        "ids": {text: encode(text) for text in texts},
        "whole": made.encode(TEXTS[0]),
        "named": {
          name: getattr(made, f"{name}_token_id")
          for name in ("bos", "eos", "pad", "mask")
        },
        "sentinels": [
          made.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(7)
        ],
      }
  path = pathlib.Path(__file__).parent / "tokenizers.json"
  path.write_text(json.dumps(out, indent=1))
  print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
  main()
