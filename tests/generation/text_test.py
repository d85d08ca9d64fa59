"""Prompts -> text: stops, limits and pieces, with a scripted model and a real.

The scripted model says the n-th token of a script whatever it reads, so that
what the text does with tokens is seen alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.generation.text import CHUNK, Generator
from llm_jax.models import cache as cache_lib
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests import small

BYTES = ByteTokenizer()
GREEDY = Sampler(temperature=0.0)
LONG = 64  # tokens of a script


def scripted(max_length=1000, apart=False):
  """A generator whose variables are the ids to be said, [B, LONG]."""

  def decode(script_BN, tokens_BT, position_BT, segment_BT, said):
    del tokens_BT, position_BT, segment_BT
    at = jnp.minimum(said, LONG - 1)
    next_B = jax.lax.dynamic_index_in_dim(script_BN, at, 1, keepdims=False)
    return jax.nn.one_hot(next_B, BYTES.vocab_size), said + 1

  return Generator(
    BYTES,
    decode,
    lambda v, rows, slots: jnp.zeros((), jnp.int32),
    max_length,
    apart=apart,
  )


SCRIPTED = scripted()


def script_of(*texts):
  """Texts as ids, each followed by eos and then by more text."""
  rows = np.full((len(texts), LONG), BYTES.encode("#")[0], np.int32)
  for row, text in zip(rows, texts, strict=True):
    ids = [*BYTES.encode(text), BYTES.eos_id][:LONG]
    row[: len(ids)] = ids
  return rows


def pieces(*texts, max_new_tokens=LONG, stop=()):
  stream = SCRIPTED.stream(
    script_of(*texts),
    ["p"] * len(texts),
    max_new_tokens=max_new_tokens,
    sampler=GREEDY,
    stop=stop,
  )
  return list(stream)


def said(text, **kwargs):
  return "".join(new for (new,) in pieces(text, **kwargs))


def expected(text, max_new_tokens=LONG, stop=()):
  """Byte by byte: what is said when the first stop string is whole."""
  data = text.encode()[:max_new_tokens]
  whole = data.decode(errors="replace")
  for end in range(len(whole) + 1):
    for s in sorted(stop, key=len, reverse=True):
      if s and whole[:end].endswith(s):
        return whole[: end - len(s)]
  return whole


def test_a_row_ends_at_eos():
  assert said("hello") == "hello"
  assert said("") == ""
  assert said("x" * CHUNK) == "x" * CHUNK
  assert said("x" * (CHUNK - 1)) == "x" * (CHUNK - 1)


@pytest.mark.parametrize("limit", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 40])
def test_a_row_ends_at_the_limit(limit):
  text = "".join(chr(ord("a") + i % 26) for i in range(60))
  assert said(text, max_new_tokens=limit) == text[:limit]


@pytest.mark.parametrize("at", range(CHUNK - 5, CHUNK + 2))
def test_a_stop_string_may_lie_across_two_looks(at):
  text = "x" * at + "STOP and on"
  assert said(text, stop=("STOP",)) == "x" * at
  # Half of it at a look, and then something else: nothing is lost.
  text = "x" * at + "STOx" + "y" * 20
  got = pieces(text, stop=("STOP",))
  assert "".join(new for (new,) in got) == text
  assert len(got) > 1


def test_of_two_stop_strings_the_first_to_be_whole_ends_the_row():
  text = "ab" + "c" * 20 + "d tail"
  for long in ("ab" + "c" * 20 + "d", "b" + "c" * 20 + "d"):
    assert said(text, stop=(long, "ccc")) == "ab"
    assert said(text, stop=("ccc", long)) == "ab"
  # The same when both are whole at one look.
  assert said("abcd", stop=("abcd", "bc")) == "a"
  assert said("abcd", stop=("cd", "abcd")) == ""
  assert said("abc", stop=("", "c")) == "ab"
  # Mutant: the one that starts first.
  assert min("abcd".find(s) for s in ("abcd", "bc")) == 0


def test_characters_split_over_tokens_come_whole():
  for before in range(CHUNK - 4, CHUNK + 1):
    text = "x" * before + "😀é€\ufffd and on"
    got = [new for (new,) in pieces(text)]
    assert "".join(got) == text
    assert all("\ufffd" not in new for new in got[:1])
  # Cut by the limit inside a character, it is marked as broken.
  assert said("ab😀", max_new_tokens=4) == "ab\ufffd"
  assert said("ab😀", max_new_tokens=6) == "ab😀"
  # Mutant: each look decoded alone breaks what lies across.
  data = ("x" * (CHUNK - 1) + "é").encode()
  parts = [data[:CHUNK], data[CHUNK:]]
  assert "\ufffd" in "".join(p.decode(errors="replace") for p in parts)


def test_any_text_is_cut_as_if_read_a_byte_at_a_time():
  r = np.random.default_rng(0)
  letters = list("aab€😀\ufffd ")
  stops = ["ab", "aab", "b€", "😀", "a b", "€😀a", "baa", "\ufffda", ""]
  ended = 0
  for _ in range(150):
    text = "".join(r.choice(letters, r.integers(0, 30)))
    stop = tuple(r.choice(stops, r.integers(0, 4)))
    limit = int(r.choice([3, 15, 16, 17, 33, 60]))
    whole = text.encode()[:limit].decode(errors="ignore")
    text = text[: len(whole)]  # no broken character: tested above
    want = expected(text, limit, stop)
    ended += want != text
    got = pieces(text, max_new_tokens=limit, stop=stop)
    assert "".join(new for (new,) in got) == want, (text, stop, limit)
  assert 30 < ended < 140


def test_rows_of_a_batch_end_each_in_its_own_place():
  texts = ["short", "x" * 40, "é" * 12 + "STOP", ""]
  news = pieces(*texts, stop=("STOP",), max_new_tokens=38)
  got = ["".join(row) for row in zip(*news, strict=True)]
  assert got == ["short", "x" * 38, "é" * 12, ""]
  whole = SCRIPTED(
    script_of(*texts),
    ["p"] * 4,
    max_new_tokens=38,
    sampler=GREEDY,
    stop=("STOP",),
  )
  assert whole == got
  assert len(pieces("short", "y", max_new_tokens=LONG)) == 1  # ends early


def test_no_prompts_no_texts():
  assert SCRIPTED(None, [], max_new_tokens=4, sampler=GREEDY) == []


def test_what_does_not_fit_the_model_is_one_clear_line():
  generator = scripted(max_length=20)
  ask = lambda prompt, n: generator(
    script_of("x" * 30), [prompt], max_new_tokens=n, sampler=GREEDY
  )
  assert ask("p" * 9, 10) == ["x" * 10]
  message = (
    r"^a prompt of 11 tokens and --samples.max_new_tokens=10 are together"
    r" longer than the 20 that --model.max_length leaves$"
  )
  with pytest.raises(ValueError, match=message):
    ask("p" * 10, 10)


def test_source_and_target_are_each_as_long_as_the_model_allows():
  generator = scripted(max_length=20, apart=True)
  ask = lambda prompt, n: generator(
    script_of("x" * 30), [prompt], max_new_tokens=n, sampler=GREEDY
  )
  assert ask("p" * 19, 20) == ["x" * 20]  # and eos behind the source
  for prompt, n in (("p" * 20, 3), ("p", 21)):
    with pytest.raises(ValueError, match="one of them is longer than the 20"):
      ask(prompt, n)


PROMPTS = ["", "a", "longer than eight", "é", "a", "€€€€€€"]


@pytest.fixture(scope="module")
def real():
  """(generator, variables) of a tiny model over bytes."""
  config = dataclasses.replace(
    small.CONFIG, vocab_size=BYTES.vocab_size + 4, max_length=64, num_layers=1
  )
  model, variables = small.build(config)
  generator = Generator(
    BYTES,
    lambda v, *args: model.apply(v, *args, method="decode"),
    lambda v, rows, slots: cache_lib.empty(config, rows, slots),
    config.max_length,
  )
  return generator, variables


def speak(real, prompts, sampler=GREEDY, seed=0):
  generator, variables = real
  return generator(
    variables, prompts, max_new_tokens=20, sampler=sampler, seed=seed
  )


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(1.0, 50)], ids=str)
def test_a_ragged_batch_is_each_prompt_alone(real, sampler):
  texts = speak(real, PROMPTS, sampler)
  alone = [speak(real, [p], sampler)[0] for p in PROMPTS]
  assert texts[:4] + texts[5:] == alone[:4] + alone[5:]
  if sampler == GREEDY:
    assert texts[4] == texts[1]
  else:
    assert texts[4] != texts[1]  # a second copy of a prompt is another sample
  assert len(set(alone)) == len(set(PROMPTS))
  turned = speak(real, PROMPTS[::-1], sampler)
  assert turned[0] == texts[5] and turned[1] == texts[1]


def test_a_seed_is_a_text(real):
  warm = Sampler(1.0)
  a, b, c = (speak(real, PROMPTS[:3], warm, seed) for seed in (7, 7, 8))
  assert a == b
  assert all(x != y for x, y in zip(a, c, strict=True))


def test_eight_devices_say_what_one_does(real):
  want = speak(real, PROMPTS, Sampler(1.0, 50))
  mesh = mesh_lib.make(mesh_lib.MeshShape(2, 2, 2))
  with jax.set_mesh(mesh):
    # Six rows over four devices of a batch: cut where that divides.
    assert speak(real, PROMPTS, Sampler(1.0, 50)) == want
