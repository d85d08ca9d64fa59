"""Ids that stand for text that was taken away, in tokenizers of others."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm_jax.contracts import Marks
from llm_jax.tokenizers.pretrained import PretrainedTokenizer

LETTERS = pre_tokenizers.ByteLevel.alphabet()


def made(*special):
  """Bytes, then special tokens in this order."""
  vocab = {c: i for i, c in enumerate(sorted(LETTERS))}
  library = tokenizers.Tokenizer(models.BPE(vocab, []))
  library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  library.decoder = decoders.ByteLevel()
  library.add_special_tokens(["</s>", *special])
  return PretrainedTokenizer(library.to_str().encode(), {"eos": "</s>"})


FIRST = 257  # behind the bytes and </s>
T5 = ["<extra_id_2>", "<extra_id_10>", "<extra_id_0>", "<extra_id_1>"]
FOUND = [
  ([], Marks()),
  (["[MASK]"], Marks(FIRST)),
  (["[PAD]", "<mask>"], Marks(FIRST + 1)),
  (T5, Marks(None, (FIRST + 2, FIRST + 3, FIRST, FIRST + 1))),
  (
    ["[S2S]", "[NLU]", "[NLG]"],
    Marks(None, (), {"R": FIRST + 1, "S": FIRST, "X": FIRST + 2}),
  ),
]


@pytest.mark.parametrize("special,marks", FOUND)
def test_marks_by_their_names(special, marks):
  found = made(*special)
  assert found.marks == marks
  # What looks like one in a text is text.
  text = "a <extra_id_0> [MASK]"
  assert found.decode(found.encode(text)) == text
  assert not set(found.encode(text)) & {*found.marks.sentinels, FIRST}
