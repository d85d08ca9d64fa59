"""Chat templates of other people's folders, and what templates may not do."""

import json

import pytest

from llm_jax.data import chat, foreign
from llm_jax.data.conversation import Message
from llm_jax.tokenizers import store
from tests.interop import tiny

# As Qwen's and Llama 3's are built, in our own words.
TURNS = """\
{{- bos_token }}{% for m in messages %}
{{- '</s>' if loop.index0 > 99 }}<s>{{ m.role }}
{{ m.content | trim }}</s>
{% endfor %}
{% if add_generation_prompt %}<s>assistant
{% endif %}"""
TALK = (
  Message("user", "what is <s>?"),
  Message("assistant", "a </s> token"),
  Message("user", "thanks"),
  Message("assistant", "bye"),
)


def folder(path, template=TURNS):
  path.mkdir()
  tiny.tokenizer(path)
  config = json.loads((path / "tokenizer_config.json").read_text())
  config["chat_template"] = template
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  return path


def test_special_ids_are_the_templates_and_never_a_messages(
  tmp_path, monkeypatch
):
  path = folder(tmp_path / "hf")
  template = chat.Template(f"hf:{path}")
  tokenizer = store.theirs(path, {})
  found = chat.render(TALK, tokenizer, template=template)
  # Every row begins with bos, so that the first one is not written twice.
  assert found.ids.count(1) == 4 and found.ids.count(2) == 4
  learned = [i for i, t in zip(found.ids, found.trained, strict=True) if t]
  assert tokenizer.decode(learned) == "a </s> tokenbye"
  assert learned.count(2) == 2  # what ends each answer
  asked = chat.render(TALK[:1], tokenizer, True, template)
  assert found.ids[: len(asked.ids)] == asked.ids
  text = "".join(p.text for p in template.pieces(TALK))
  assert "what is <s>?" in text and "a </s> token" in text
  # The mutant: names in messages are not broken up while rendering.
  monkeypatch.setattr(foreign.Foreign, "broken", lambda self, text, mark: text)
  mutant = chat.render(TALK, tokenizer, template=chat.Template(f"hf:{path}"))
  assert mutant.ids.count(1) == 5 and mutant.ids.count(2) == 5


WRONG = {
  "long loop": ("{% for i in range(100000000) %}x{% endfor %}", "over 100,000"),
  "loops in loops": (
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}"
    "{% endfor %}",
    "loops more than 100,000 times",
  ),
  "runs on": (
    "{% set s = 'xxxxxxxxxx' * 999 %}{% for a in s %}{% for b in s %}"
    "{% for c in s %}{% endfor %}{% endfor %}{% endfor %}",
    "is not done after",
  ),
  "writes on": (
    "{% set s = 'x' * 99999 %}{% for i in range(2000) %}{{ s }}{% endfor %}",
    "writes more than",
  ),
  "large": ("{{ 'x' * 10000000000 }}", "a number over 100,000"),
  "wide": ("{{ 'x'.ljust(10000000000) }}", "a number over 100,000"),
  "outside": ("{{ ''.__class__.__mro__ }}", "unsafe"),
  "import": ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
  "syntax": ("{% for %}", "line 1"),
  "another beginning": (
    "{{ messages | length }}" + TURNS,
    "otherwise than the whole of it",
  ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_templates_that_do_what_they_must_not(wrong, tmp_path, monkeypatch):
  monkeypatch.setattr("llm_jax.data.sandbox.SECONDS", 0.2)
  source, expected = WRONG[wrong]
  path = folder(tmp_path / "hf", source)
  with pytest.raises(ValueError, match=expected) as caught:
    chat.Template(f"hf:{path}")
  assert str(caught.value).startswith("--data.template=hf:")
  assert "\n" not in str(caught.value)


def test_a_folder_without_a_template_is_told(tmp_path):
  path = folder(tmp_path / "hf", None)
  with pytest.raises(ValueError, match="has no chat template"):
    chat.Template(f"hf:{path}")


HOSTILE = {
  "a list": ([], "tokenizer_config.json is no object of JSON"),
  "texts": ({"chat_template": ["a", "b"]}, "the folder has no chat template"),
  "nameless": ({"chat_template": [{"template": "x"}]}, "no chat template"),
  "an end": ({"chat_template": "x", "eos_token": 7}, "eos_token of .* is 7"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tokenizers_settings_of_another_kind(kind, tmp_path):
  config, said = HOSTILE[kind]
  path = folder(tmp_path / "hf")
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=said):
    foreign.read(f"hf:{path}", "--data.template")


def test_added_tokens_of_another_kind_are_none(tmp_path):
  path = folder(tmp_path / "hf")
  for added in (7, ["<s>"], [{"special": True}], [{"content": 3}]):
    (path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert foreign.read(f"hf:{path}", "--data.template").words == ()
