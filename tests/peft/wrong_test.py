"""Settings of methods that a model cannot have are told, each by its flag."""

import jax
import pytest

from llm_jax import axes
from llm_jax import model as model_lib
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.select import BitFit, Select
from llm_jax.peft.sites import Base
from tests import small

WRONG = [
  (LoRA(targets=("mlp/up", "mlp/op")), "--peft.targets=mlp/op: matches none"),
  (LoRA(targets=("blocks/mlp/up",)), "none of attention/key, attention/out,"),
  (BitFit(targets=("mlp",)), "--peft.targets=mlp: matches none of"),
  (IA3(outputs=("key",)), "--peft.outputs=key: matches none of"),
  (IA3(inputs=("mlp/dawn",)), "--peft.inputs=mlp/dawn: matches none of"),
  (Select(patterns=("*", "mlp/*")), "--peft.patterns=mlp/*: matches none of"),
  (Select(last=small.CONFIG.num_layers + 1), "--peft.last=3: the model has 2"),
  (Prompt(text=""), "--peft.text: is empty"),
  (
    Prompt(tokens=small.DIMS.V + 1, init="vocabulary"),
    f"--peft.tokens={small.DIMS.V + 1}: more than the {small.DIMS.V} rows",
  ),
  (
    Bottlenecks(special_tokens=small.DIMS.V + 1),
    f"--peft.special_tokens={small.DIMS.V + 1}: the model has {small.DIMS.V}",
  ),
]


OF_STATES = [
  (Prefix(), "--peft (Prefix): not for a model without blocks/attention/key"),
  (Bottlenecks(), "--peft (Bottlenecks): not for a model without blocks/mlp"),
  (IA3(), "--peft.outputs=attention/key: matches none of input, recurrent"),
  (Select(last=3), "--peft.last=3: the model has 2"),
]


@pytest.mark.parametrize(
  ("method", "said", "config"),
  [(*its, small.CONFIG) for its in WRONG]
  + [(*its, small.RECURRENT["lstm"]) for its in OF_STATES],
)
def test_a_wrong_setting_is_told(method, said, config):
  model = model_lib.of_shape(config)
  boxed = jax.eval_shape(model.init, jax.random.key(0))["params"]
  suffixes = axes.suffixes(boxed)

  def add(params):
    base = Base(params, suffixes, jax.random.key(0), lambda text: [*text])
    return method.add(base)

  with pytest.raises(ValueError) as e:
    jax.eval_shape(add, axes.unbox(boxed))
  assert said in str(e.value) and "\n" not in str(e.value)
