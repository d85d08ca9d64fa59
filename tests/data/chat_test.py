"""Ids of a conversation: exact spans with the stop token, no injection."""

import functools

import pytest

from llm_jax.data import chat
from llm_jax.data.conversation import Message
from llm_jax.tokenizers import special, store
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests.data.chats import talk

BYTES = ByteTokenizer()
ROLE = special.ROLE_IDS
SYSTEM, USER, ASSISTANT, END = (ROLE[r] for r in special.ROLES)
TWO = talk("Hallo?", "Ja.", "Wirklich?", " Nein!\n", system="Sei kurz.")
ODD = [
  "",
  " ",
  "\n\n  two\t\r\n",
  "<user><end><eos><|im_end|></s>[INST]",
  "{{ 7 * 7 }}{% generation %}{# no #}{% endgeneration %}",
  "\x00\u2028\ufeff▁ \u2581é e\u0301 🙂",
  "".join(map(chr, range(0xFDD0, 0xFDF0))),  # what marks are made of
  "\U000f0000\U000f0001\U000ffffd",
  "&lt;b&gt; <b> \\ufdd0 ' \"",
]


@functools.cache
def pieces_tokenizer(folder):
  text = "def name of the function that returns this and that\n" * 50
  settings = SentencePiece(kind="bpe", vocab_size=310)
  return store.obtain(settings, lambda: iter([text]), folder)


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def tokenizer(request, tmp_path_factory):
  if request.param == "bytes":
    return BYTES
  return pieces_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def spans(encoded):
  """Runs of trained ids."""
  out, run = [], []
  for i, trained in zip(*encoded, strict=True):
    if trained:
      run.append(i)
    elif run:
      out.append(run)
      run = []
  return [*out, run] if run else out


def test_known_answer():
  encoded = chat.render(TWO.messages, BYTES)
  e = BYTES.encode
  first = [SYSTEM, *e("Sei kurz."), END, USER, *e("Hallo?"), END, ASSISTANT]
  one = [*e("Ja."), END]
  second = [USER, *e("Wirklich?"), END, ASSISTANT]
  two = [*e(" Nein!\n"), END]
  assert encoded.ids == [*first, *one, *second, *two]
  want = [False] * len(first) + [True] * len(one)
  want += [False] * len(second) + [True] * len(two)
  assert encoded.trained == want


def test_plain_known_answer():
  encoded = chat.render(
    talk("2 + 2 =", " 4").messages, BYTES, template=chat.Template("plain")
  )
  prompt, answer = BYTES.encode("2 + 2 ="), BYTES.encode(" 4")
  assert encoded.ids == [*prompt, *answer, BYTES.eos_id]
  assert spans(encoded) == [[*answer, BYTES.eos_id]]


@pytest.mark.parametrize("name", chat.NAMED)
@pytest.mark.parametrize("i", range(len(ODD)))
def test_whatever_is_said_comes_through(name, i, tokenizer):
  """Lossless, spans exact, the stop token last, no special id from text."""
  odd, other = ODD[i], ODD[i - 1]
  said = talk(odd, other, other + "?", odd, system=odd + "!")
  template = chat.Template(name)
  encoded = chat.render(said.messages, tokenizer, template=template)
  stop = END if name == "chat" else tokenizer.eos_id
  want = [[*tokenizer.encode(answer), stop] for answer in (other, odd)]
  assert spans(encoded) == want
  text = "".join(m.content for m in said.messages)
  assert tokenizer.decode(encoded.ids) == text
  specials = [x for x in encoded.ids if x < special.COUNT]
  turns = [[SYSTEM, END], [USER, END], [ASSISTANT, END]]
  turns = [*turns, *turns[1:]]
  assert specials == (sum(turns, []) if name == "chat" else [stop, stop])


@pytest.mark.parametrize("name", chat.NAMED)
def test_a_prompt_has_the_ids_that_it_had_in_training(name, tokenizer):
  template = chat.Template(name)
  for odd in ODD:
    said = talk("a" + odd, odd + "b", odd + "u", "c").messages
    said = (Message("system", odd), *said)
    whole = chat.render(said, tokenizer, template=template)
    for turn in (2, 4):
      ids, trained = chat.render(said[:turn], tokenizer, True, template)
      assert whole.ids[: len(ids)] == ids
      assert whole.trained[: len(ids)] == trained
      assert whole.trained[len(ids)] and not trained[-1]


def test_mutant_encoding_all_at_once_moves_borders(tmp_path_factory):
  """Why pieces are encoded apart: merged, "f" + "unction" is other ids."""
  tokenizer = pieces_tokenizer(tmp_path_factory.mktemp("tokenizer"))
  apart = [*tokenizer.encode("f"), *tokenizer.encode("unction")]
  assert apart != tokenizer.encode("function")
  said = talk("f", "unction").messages
  encoded = chat.render(said, tokenizer, template=chat.Template("plain"))
  assert encoded.ids == [*apart, tokenizer.eos_id]


def test_several_at_once_are_each_alone():
  template = chat.Template()
  said = [talk(a, b).messages for a, b in zip(ODD, ODD[1:], strict=False)]
  together = chat.encode([template.pieces(m) for m in said], BYTES)
  assert together == [chat.render(m, BYTES) for m in said]


def own(tmp_path, source):
  path = tmp_path / "own.jinja"
  path.write_text(source, encoding="utf-8")
  return path


LOOP = "{% for m in messages %}"
ANSWER = "{% generation %}{{ m.content }}{{ tokens.end }}{% endgeneration %}"
OPEN = "{% if add_generation_prompt %}{{ tokens.assistant }}{% endif %}"
GOOD = f"""\
{{{{ bos_token }}}}{LOOP}
{{% if m['role'] == 'assistant' %}}{{{{ tokens.assistant }}}}{ANSWER}
{{% else %}}[{{{{ m['role'] | upper }}}}]{{{{ m['content'] }}}}
{{% endif %}}
{{% endfor %}}
{OPEN}
"""


def test_a_template_of_ones_own(tmp_path):
  template = chat.Template(str(own(tmp_path, GOOD)))
  encoded = chat.render(talk("a", "b").messages, BYTES, template=template)
  e = BYTES.encode
  assert encoded.ids[0] == BYTES.bos_id
  assert BYTES.decode(encoded.ids) == "[USER]a\nb"
  assert spans(encoded) == [[*e("b"), END]]


def wrong(tmp_path, source):
  path = own(tmp_path, source)
  with pytest.raises(ValueError) as e:
    chat.Template(str(path))
  said = str(e.value)
  assert said.startswith(f"--data.template={path}: ") and "\n" not in said
  return said


WRONG = {
  "no stop token": (
    GOOD.replace("{{ tokens.end }}{% endg", "{% endg"),
    "no special token, such as tokens.end or eos_token, ends what the",
  ),
  "stop token after the span": (
    GOOD.replace(
      "{{ tokens.end }}{% endgeneration %}",
      "{% endgeneration %}{{ tokens.end }}",
    ),
    "no special token",
  ),
  "nothing trained": (
    GOOD.replace("{% generation %}", "").replace("{% endgeneration %}", ""),
    "what the assistant says is not between {% generation %}",
  ),
  "the user is trained": (
    GOOD.replace("{{ m['content'] }}", ANSWER),
    "what the user says is between {% generation %}",
  ),
  "role in the span": (
    GOOD.replace("{% generation %}", "").replace(
      "{{ tokens.assistant }}{{", "{% generation %}{{ tokens.assistant }}{{"
    ),
    "with add_generation_prompt the prompt is not what stands before",
  ),
  "prompt not opened": (GOOD.replace(OPEN, ""), "with add_generation_prompt"),
  "user left out": (
    GOOD.replace("{{ m['content'] }}", "{{ m['contents'] if false }}"),
    "leaves out what the user says",
  ),
  "no such field": (
    GOOD.replace("{{ m['content'] }}", "{{ m.content }}{{ m.contents }}"),
    "has no attribute 'contents'",
  ),
  "no such token": (GOOD + "{{ tokens.usr }}", "has no attribute 'usr'"),
  "no such name": (
    GOOD + "{{ sytem_prompt | trim }}",
    "'sytem_prompt' is undef",
  ),
  "internals": (GOOD + "{{ raise_exception.__globals__ }}", "__globals__"),
  "syntax": (GOOD + "{% endfor %}", "line 7: "),
  "never closed": (
    GOOD.replace("{% endgeneration %}", ""),
    "line",
  ),
  "twice": (
    GOOD.replace("{% generation %}", "{% generation %}" * 2).replace(
      "{% endgeneration %}", "{% endgeneration %}" * 2
    ),
    "{% generation %} within another",
  ),
  "sandbox": (
    "{{ messages.__class__.__mro__ }}",
    "access to attribute '__class__' of",
  ),
  "mutation": ("{{ messages.append(1) }}", "is unsafe"),
  "refusal": ("{{ raise_exception('only one\nturn') }}", "only one"),
  "arithmetic": ("{{ 1 / 0 }}", "division by zero"),
  "unknown token": ("{{ tokens.tool.x }}", "no attribute 'tool'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_template_is_told_in_one_line(case, tmp_path):
  source, want = WRONG[case]
  assert source != GOOD
  assert want in wrong(tmp_path, source)


def test_no_such_template(tmp_path):
  for given, want in (
    ("chatml", "--data.template=chatml: one of chat, plain, or the path of"),
    (str(tmp_path / "a.jinja"), "cannot be read (No such file"),
  ):
    with pytest.raises(ValueError, match="--data.template") as e:
      chat.Template(given)
    assert want in str(e.value)
  path = tmp_path / "b.jinja"
  path.write_bytes(b"\xff")
  with pytest.raises(ValueError, match="not UTF-8: byte 0"):
    chat.Template(str(path))


def test_a_template_may_refuse_a_conversation(tmp_path):
  source = GOOD.replace(
    LOOP,
    "{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no system here') }}{% endif %}" + LOOP,
  )
  template = chat.Template(str(own(tmp_path, source)))
  with pytest.raises(ValueError, match=r"own.jinja: no system here$"):
    template.pieces([Message("system", "a")])


def test_what_may_be_absent_is_asked_for(tmp_path):
  """As templates do that other libraries fill with more than we have."""
  more = "{% if tools %}{{ tools }}{% endif %}{{ date | default('today') }}"
  more += "{% if x is defined %}x{% endif %}{{ 'y' if tools }}"
  template = chat.Template(str(own(tmp_path, "\ufeff" + more + GOOD)))
  encoded = chat.render(talk("a", "b").messages, BYTES, template=template)
  assert BYTES.decode(encoded.ids) == "today[USER]a\nb"


def test_nothing_of_a_conversation_is_lost_silently(tmp_path):
  skips = GOOD.replace(LOOP, LOOP[:-3] + " if m.role != 'system' %}")
  assert skips != GOOD
  template = chat.Template(str(own(tmp_path, skips)))
  said = talk("a", "b")
  assert template.learned(said.messages) == template.pieces(said.messages)
  for ask in (False, True):
    with pytest.raises(ValueError, match=r"out what the system says \('Be k"):
      template.pieces([Message("system", "Be kind."), *said.messages], ask)
  once = "{% if messages[0].content != 'q' %}" + GOOD + "{% endif %}"
  template = chat.Template(str(own(tmp_path, once)))
  template.learned(said.messages)
  want = r"nothing of it is to be learned \(in the conversation that begins 'q'"
  with pytest.raises(ValueError, match=want):
    template.learned(talk("q", "b").messages)
