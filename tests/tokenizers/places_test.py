"""Where a text's pieces stand: text[a:b] is what they decode to."""

import hypothesis
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llm_jax.contracts import Located
from llm_jax.tokenizers import exported, places
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.extra import Extended
from llm_jax.tokenizers.pretrained import PretrainedTokenizer
from tests.tokenizers import lossless_test

TEXT = "na\u00efve  caf\u00e9\n\u4f60\u597d x=\U0001f600, def f(x=1):\t\u2581"


def parts(tokenizer, text, found):
  """(text where pieces stand, what they decode to), of whole characters."""
  groups = []
  for i, (a, b) in zip(found.ids, found.place_N2.tolist(), strict=True):
    if groups and a < groups[-1][1]:
      groups[-1][1], groups[-1][2] = max(b, groups[-1][1]), [*groups[-1][2], i]
    else:
      groups.append([a, b, [i]])
  return [(text[a:b], tokenizer.decode(ids)) for a, b, ids in groups]


def check(tokenizer, text):
  (found,) = tokenizer.locate([text])
  assert found.ids == tokenizer.encode(text)
  told = parts(tokenizer, text, found)
  assert all(ours == theirs for ours, theirs in told), told
  assert "".join(ours for ours, _ in told) == text


@pytest.mark.parametrize("kind", lossless_test.KINDS)
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(text=lossless_test.texts)
def test_pieces_of_lossless_tokenizers(kind, text):
  check(lossless_test.tokenizer(kind), text)


def test_several_texts_and_ids_behind():
  t = Extended(ByteTokenizer(), 3)
  check(t, TEXT)
  assert [len(its.ids) for its in t.locate(["ab", "", "c"])] == [2, 0, 1]
  assert t.locate([""])[0].place_N2.shape == (0, 2)


def test_of_the_tokenizers_library():
  """Ours, as the library reads them, stand where they stand."""
  for kind in ("bytes", "unigram"):
    ours = lossless_test.tokenizer(kind)
    model, _ = exported.files(ours)
    theirs = PretrainedTokenizer(model, {"eos": "<eos>", "bos": "<bos>"})
    text = TEXT.replace("\u2581", "")
    check(theirs, text)
    a, b = ours.locate([text])[0], theirs.locate([text])[0]
    assert a.ids == b.ids
    if kind == "bytes":  # else unknown characters have a place together
      np.testing.assert_array_equal(a.place_N2, b.place_N2)


def test_text_that_is_normalised_stands_where_it_was():
  """As BERT's: lower case, no accents, pieces of words."""
  words = ["[UNK]", "[CLS]", "[SEP]", "naive", "ca", "##fe", "in", "##side"]
  library = tokenizers.Tokenizer(
    models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
  )
  library.normalizer = normalizers.BertNormalizer(lowercase=True)
  library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  library.decoder = decoders.WordPiece()
  t = PretrainedTokenizer(library.to_str().encode(), {"eos": "[SEP]"})
  text = "  Na\u00efve INSIDE Caf\u00e9?"
  (found,) = t.locate([text])
  assert [text[a:b] for a, b in found.place_N2.tolist()] == [
    *("Na\u00efve", "IN", "SIDE", "Ca", "f\u00e9", "?")
  ]


def test_mutant_places_in_bytes_are_caught(monkeypatch):
  def of_bytes(text, size_N):
    end_N = np.cumsum(size_N)
    return np.stack([end_N - size_N, end_N], 1)

  monkeypatch.setattr(places, "of_bytes", of_bytes)
  check(lossless_test.tokenizer("unigram"), "all of it is ASCII")
  with pytest.raises(AssertionError):
    check(lossless_test.tokenizer("unigram"), TEXT)


def test_mutant_each_piece_a_character_late_is_caught():
  class Late(ByteTokenizer):
    def locate(self, texts):
      return [Located(i, p + 1) for i, p in super().locate(texts)]

  with pytest.raises(AssertionError):
    check(Late(), "abc")
