"""Adapters of the `peft` library do what they do there.

The stored numbers are of `tests/goldens/peft_folders.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import axes, importing, importing_adapters, trees
from llm_jax import model as model_lib
from llm_jax.interop import families, gpt2, peft, peft_maps, peft_writing
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.folder import Folder
from llm_jax.models.transformer import Decoder
from llm_jax.peft import merge
from tests.interop import families_test, tiny

NAMES = sorted(p.stem for p in tiny.ADAPTERS.glob("*.npz"))
CASES = pytest.mark.parametrize("name", NAMES)

# Put on the base, too, each kind of array once: it is another program each.
PUT_ON = (
  "gpt2_dora",
  "gpt2_ia3",
  "llama_patterns",
  "llama_prompt",
  "gpt2_prompt",
)


@functools.cache
def base(name, there):
  """Shape, params in float64 and suffixes of a golden's base."""
  golden = tiny.golden(name)
  folder = tiny.write(there / name, golden["config"], golden["tensors"])
  shape, params = families_test.read(folder)
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  return shape, params, axes.suffixes(boxed["params"])


@pytest.fixture(scope="module")
def there(tmp_path_factory):
  return tmp_path_factory.mktemp("bases")


def load(folder, shape, params, suffixes):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params
  )
  given = f"peft:{folder}"
  return importing_adapters.load(
    given, "adapter", shape, abstract, suffixes, "a run"
  )


@functools.cache
def program(of, shape):
  """Variables -> logits of a golden's rows, without padding."""
  golden, module = tiny.golden(of), Decoder(shape)
  ids_BT = jnp.asarray(golden["ids_BT"])
  more = {k: jnp.asarray(golden[k]) for k in ("type_BT",) if k in golden}
  more["segment_BT"] = jnp.ones_like(ids_BT)

  def forward(variables):
    x_BTD = module.apply(variables, ids_BT, **more)
    x_JD = x_BTD.reshape(-1, shape.embed_dim)
    out = module.apply(variables, x_JD, method="logits")
    return out.reshape(*ids_BT.shape, -1)

  return jax.jit(forward)


def apart(name, there, folder, merged=True):
  """The largest difference of logits from those of the library."""
  golden = tiny.golden(name, tiny.ADAPTERS)
  of = str(golden["base"])
  with families_test.float64():
    shape, params, suffixes = base(of, there)
    adapters, replaced = load(folder, shape, params, suffixes)
    params = trees.overlay(params, replaced)
    variables = {"params": params, "adapters": adapters}
    if merged:
      fold = jax.jit(lambda p, a: merge.merge(p, a, suffixes))
      variables = {"params": fold(params, adapters)}
    got = np.asarray(program(of, shape)(variables))
  want = golden["logits_BTV"][:, -got.shape[1] :]  # after virtual tokens
  return np.abs(got - want).max()


@CASES
def test_logits_are_those_of_the_library(name, there, tmp_path):
  folder = tiny.peft(tmp_path / name, name)
  if not name.endswith("prompt"):
    assert apart(name, there, folder) < 1e-9
  if name in PUT_ON:
    assert apart(name, there, folder, merged=False) < 1e-9


def _never_read(tensor, x):
  return np.zeros_like(x) if "lora_B" in tensor else x


def _exchanged(tensor, x):
  """A and B swapped, of maps of one shape."""
  if not re.search(r"o_proj\.lora_[AB]", tensor):
    return x
  other = tensor.translate(str.maketrans("AB", "BA"))
  return tiny.adapter(other, x.shape[::-1]).T


def _other_map(tensor, x):
  """Of the wrong module: attention's output gets what is the query's."""
  if "q_proj" not in tensor and "o_proj" not in tensor:
    return x
  swap = {"q_proj": "o_proj", "o_proj": "q_proj"}
  return tiny.adapter(
    re.sub("q_proj|o_proj", lambda m: swap[m[0]], tensor), x.shape
  )


def _parts_turned(tensor, x):
  """Queries, keys and values of one tensor in another order."""
  return np.roll(x, len(x) // 3, 0) if "c_attn.lora_B" in tensor else x


MUTANTS = {
  "never read": ("llama_lora", {}, _never_read),
  "A and B swapped": ("llama_lora", {}, _exchanged),
  "wrong module": ("llama_lora", {}, _other_map),
  "alpha ignored": ("llama_lora", {"lora_alpha": 3}, None),
  "scale without root": ("llama_rslora", {"use_rslora": False}, None),
  "pattern ignored": ("llama_patterns", {"alpha_pattern": {}}, None),
  "parts in another order": ("gpt2_lora", {}, _parts_turned),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_classic_mistakes_are_caught(mutant, there, tmp_path):
  name, said, change = MUTANTS[mutant]
  folder = tiny.peft(tmp_path / name, name, change, **said)
  assert apart(name, there, folder) > 1e-3


def test_a_length_on_the_wrong_axis_is_caught(there, tmp_path, monkeypatch):
  """The mutant: DoRA's magnitude of rows in place of columns."""
  folder = tiny.peft(tmp_path / "dora", "llama_dora")
  norm = jnp.linalg.norm
  turned = lambda x, axis, **how: norm(x, axis=axis - 1 if axis else 1, **how)
  assert apart("llama_dora", there, folder) < 1e-9
  monkeypatch.setattr(
    jnp.linalg,
    "norm",
    lambda x, axis, **how: (
      turned(x, axis, **how)
      if x.shape[-1] == x.shape[-2]
      else norm(x, axis=axis, **how)
    ),
  )
  assert apart("llama_dora", there, folder) > 1e-3


@pytest.mark.parametrize("name", [n for n in NAMES if "patterns" not in n])
def test_what_is_read_is_written_bit_by_bit(name, there, tmp_path):
  golden = tiny.golden(name, tiny.ADAPTERS)
  folder = tiny.peft(tmp_path / name, name)
  with families_test.float64():
    shape, params, suffixes = base(str(golden["base"]), there)
    adapters, _ = load(folder, shape, params, suffixes)
  flat = (dict(trees.paths(t)) for t in (params, suffixes))
  sizes = lines_lib.sizes(*flat)
  family = families.of(Folder(there / str(golden["base"]), "base"))
  lines = family.lines(dataclasses.asdict(shape))
  maps = peft_maps.maps(lines, suffixes)
  got, about = peft_writing.written(adapters, maps, sizes)
  want = load_file(folder / "adapter_model.safetensors")
  for key in got.keys() - want.keys():  # of layers that had none
    assert name == "bert_ia3" and (got[key] == 1).all()
  for key, x in want.items():
    assert got[key].shape == x.shape and got[key].tobytes() == x.tobytes()
  root = 3**0.5 if "rslora" in name else 3
  assert set(about.values()) <= {(3, 5 / root)}


def test_parts_with_their_own_a_are_one_map_of_more_ranks(there):
  """Queries and values of one tensor, adapted apart; keys not at all."""
  shape, params, suffixes = base("gpt2", there)
  rng = np.random.default_rng(0)
  adapters = {}
  for part, rank in (("query", 2), ("value", 1)):
    its = {
      "a": rng.normal(size=(3, 16, rank)),
      "b": rng.normal(size=(3, rank, 4, 4)),
      "scale": np.full(3, 0.5),
    }
    trees.put(adapters, f"blocks/attention/{part}", its)
  sizes = {"": {"L": 3, "D": 16, "N": 4, "K": 4, "H": 4, "F": 64}}
  lines = gpt2.FAMILY.lines(dataclasses.asdict(shape))
  maps = peft_maps.maps(lines, suffixes)
  got, about = peft_writing.written(adapters, maps, sizes)
  assert about == {"transformer.h.{layer}.attn.c_attn": (3, 0.5)}
  for i in range(3):
    stem = f"base_model.model.transformer.h.{i}.attn.c_attn.lora_"
    moved = (got[f"{stem}B.weight"] @ got[f"{stem}A.weight"]).T
    for at, part in enumerate(("query", "key", "value")):
      want = np.zeros((16, 16))
      if part != "key":
        its = adapters["blocks"]["attention"][part]
        want = its["a"][i] @ its["b"][i].reshape(-1, 16)
      here = moved[:, 16 * at : 16 * (at + 1)]
      np.testing.assert_allclose(here, want, atol=1e-14)


def test_names_mean_the_maps_that_are_meant():
  layers = lambda end: [f"h.{i}.{end}" for i in range(12)]
  every = {e: layers(e) for e in ("attn.c_proj", "mlp.c_proj", "mlp.c_fc")}
  others = lambda end: [n for e, its in every.items() if e != end for n in its]
  target = lambda end: peft.target(every[end], others(end))
  assert target("mlp.c_fc") == ["c_fc"]
  assert target("mlp.c_proj") == ["mlp.c_proj"]
  # No end of these is not an end of the others, too.
  dense = layers("output.dense")
  assert peft.target(dense, layers("attention.output.dense")) == dense


def test_params_stay_where_they_are_placed(there, tmp_path):
  """Cut over eight devices, they are those of one."""
  shape, one, suffixes = base("llama3", there)
  folder = tiny.peft(tmp_path / "its", "llama_lora")
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  boxed = boxed["params"]
  devices = np.array(jax.devices()).reshape(4, 2)
  mesh = jax.sharding.Mesh(devices, ("fsdp", "tensor"))
  cut = axes.shardings(boxed, mesh)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  given = f"hf:{there / 'llama3'}+peft:{folder}"
  found = []
  for where in (cut, jax.tree.map(lambda _: whole, cut)):
    abstract = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, "float32", sharding=s),
      one,
      where,
    )
    params = importing.params(
      given, "init_from", shape, abstract, suffixes, families_test.SAME
    )
    found.append(
      importing_adapters.folded(
        params, given, "init_from", shape, abstract, suffixes
      )
    )
  same = jax.tree.map(lambda x, s: x.sharding == s, found[0], cut)
  assert all(jax.tree.leaves(same))
  close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6)
  jax.tree.map(close, *found)
