"""README.md of an exported model names the class that loads it."""

import pytest

from llm_jax.reporting import cards

# As transformers' own documentation of each class has them.
LOADED_BY = {
  "LlamaForCausalLM": "AutoModelForCausalLM",
  "GPT2LMHeadModel": "AutoModelForCausalLM",
  "T5ForConditionalGeneration": "AutoModelForSeq2SeqLM",
  "BertForMaskedLM": "AutoModelForMaskedLM",
  "BertModel": "AutoModel",
  "BertForTokenClassification": "AutoModelForTokenClassification",
  "LlamaForSequenceClassification": "AutoModelForSequenceClassification",
}


@pytest.mark.parametrize("architecture", LOADED_BY)
@pytest.mark.parametrize("chats", [False, True])
def test_the_class_is_that_of_the_architecture(architecture, chats):
  said = cards.card("name", "mit", {}, {}, {}, architecture, chats)
  assert f"{LOADED_BY[architecture]}.from_pretrained" in said
  assert "KIND" not in said and "TEXTS" not in said
  writes = architecture.endswith(("CausalLM", "Generation", "LMHeadModel"))
  judges = architecture.endswith("SequenceClassification")
  assert ("apply_chat_template" in said) == (chats and (writes or judges))
