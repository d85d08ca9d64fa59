"""A folder's tensors, placed over devices: all there, each byte read once."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import axes, importing
from llm_jax import model as model_lib
from llm_jax.interop import placing
from llm_jax.interop.folder import Folder
from llm_jax.interop.placing import Stacked
from tests.interop import families_test, tiny

PLAIN, DEEP = {"fsdp": 4, "tensor": 2}, {"stage": 2, "expert": 2, "fsdp": 2}


def _placed(name, folder, mesh):
  """A folder's parameters over eight devices, and their shardings."""
  devices = np.array(jax.devices()).reshape(*mesh.values())
  shape = importing.model(f"hf:{folder}", families_test.kind(name)())
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  boxed = boxed["params"]
  shardings = axes.shardings(boxed, jax.sharding.Mesh(devices, tuple(mesh)))
  placed = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    axes.unbox(boxed),
    shardings,
  )
  suffixes = axes.suffixes(boxed)
  params = importing.params(
    f"hf:{folder}", "init_from", shape, placed, suffixes, families_test.SAME
  )
  return params, shardings


def _folder(name, path, files=3):
  golden = tiny.golden(name)
  its = golden["config"], golden["tensors"]
  return tiny.write(path / name, *its, dtype=np.float32, files=files)


@pytest.mark.parametrize(
  ("name", "mesh"),
  [
    *((name, PLAIN) for name in ("llama3", "mixtral", "gpt2", "phi3")),
    *((name, PLAIN) for name in ("olmo2", "modernbert", "bart")),
    *((name, DEEP) for name in ("mixtral", "phi3", "modernbert")),
  ],
)
def test_each_device_reads_its_part_and_all_is_there(name, mesh, tmp_path):
  folder = _folder(name, tmp_path)
  _, whole = families_test.read(
    folder, "float32", kind=families_test.kind(name)
  )
  cut, shardings = _placed(name, folder, mesh)
  jax.tree.map(np.testing.assert_array_equal, cut, whole)
  same = jax.tree.map(lambda x, s: x.sharding == s, cut, shardings)
  assert all(jax.tree.leaves(same))


def _four_layers(name, path):
  """A folder whose layers two stages share; each file is of another dtype."""
  golden = tiny.golden(name)
  config, tensors = golden["config"], golden["tensors"]
  assert config["num_hidden_layers"] == 3
  config |= {"num_hidden_layers": 4}
  if "layer_types" in config:
    config["layer_types"] = [*config["layer_types"], "full_attention"]
  more = [(n.replace(".2.", ".3.", 1), s) for n, s in tensors if ".2." in n]
  folder = tiny.write(path / name, config, tensors + more, files=3)
  kinds = np.float32, np.float16, jnp.bfloat16
  for file, kind in zip(
    sorted(folder.glob("*.safetensors")), kinds, strict=True
  ):
    save_file({n: x.astype(kind) for n, x in load_file(file).items()}, file)
  return folder


@pytest.mark.parametrize("name", ["llama3", "mixtral", "modernbert"])
def test_layers_of_stages_may_be_of_several_dtypes(name, tmp_path):
  """What two stages hold of a parameter is then not of one dtype in files."""
  folder = _four_layers(name, tmp_path)
  _, whole = families_test.read(folder, "float32")
  cut, _ = _placed(name, folder, DEEP)
  query = cut["blocks"]["attention"]["query"]["kernel"]
  assert query.sharding.spec[0] == "stage"
  jax.tree.map(np.testing.assert_array_equal, cut, whole)


def test_parts_of_layers_are_not_those_of_others(tmp_path, monkeypatch):
  """A mutant: where layers are over devices, all read the first ones."""
  folder = _folder("mixtral", tmp_path)
  _, whole = families_test.read(folder, "float32")
  name = Stacked.name
  monkeypatch.setattr(
    Stacked, "name", lambda its, at: name(its, [i % 2 for i in at])
  )
  cut, _ = _placed("mixtral", folder, DEEP)
  query = lambda params: params["blocks"]["attention"]["query"]["kernel"]
  assert not np.array_equal(query(cut), query(whole))


def test_every_byte_is_read_once_from_the_first_to_the_last(
  tmp_path, monkeypatch
):
  folder = _folder("llama3", tmp_path)
  found, read = [], Folder.read

  def watched(self, tensor, index=None):
    found.append((tensor, read(self, tensor, index)))
    return found[-1][1]

  monkeypatch.setattr(Folder, "read", watched)
  monkeypatch.setattr(placing, "_THREADS", 1)
  _placed("llama3", folder, PLAIN)
  there = Folder(folder, "").tensors().values()
  sizes = sum(x.nbytes for _, x in found), sum(t.stop - t.start for t in there)
  assert sizes[0] == sizes[1]
  order = list(dict.fromkeys(tensor for tensor, _ in found))
  assert order == sorted(there, key=lambda t: (t.file, t.start))


def test_nothing_more_is_read_after_an_error(tmp_path, monkeypatch):
  folder = _folder("llama3", tmp_path)
  begun, read = [], Folder.read

  def slow(self, tensor, index=None):
    begun.append(tensor.name)
    if len(begun) == 1:
      raise KeyboardInterrupt
    time.sleep(0.2)
    return read(self, tensor, index)

  monkeypatch.setattr(Folder, "read", slow)
  with pytest.raises(KeyboardInterrupt):
    _placed("llama3", folder, PLAIN)
  assert len(begun) <= 2 * placing._THREADS  # as many as are read at once


def test_a_file_that_goes_away_is_told_in_a_line(tmp_path):
  folder = Folder(_folder("llama3", tmp_path), "--init_from=hf:its")
  its = next(iter(folder.tensors().values()))
  whole = its.file.read_bytes()
  its.file.write_bytes(whole[: its.stop - 1])
  with pytest.raises(ValueError, match="its: .* is shorter than it was"):
    folder.read(its)
  its.file.unlink()
  with pytest.raises(ValueError, match="its: .* cannot be read"):
    folder.read(its)
