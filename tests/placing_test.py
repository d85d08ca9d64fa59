"""What a compiler that is stopped before machine code says of memory."""

import pathlib

from benchmarks import placing

REPORT = "Memory Space: default (color=0)\nTotal bytes: 5000 (4.88KiB)\n"
BUFFERS = """BufferAssignment:
allocation 1: size 1000, parameter 7, shape |f32[250]| at ShapeIndex {}, \
maybe-live-out:
allocation 2: size 300, parameter 8, shape |f32[75]| at ShapeIndex {}:
allocation 3: size 40, maybe-live-out:
allocation 4: size 3660, preallocated-temp:
"""


def test_bytes_of_a_program_from_where_its_buffers_lie(tmp_path, monkeypatch):
  """A parameter that lives on is one whose place a result takes."""
  heard = tmp_path / "heard.log"
  heard.write_text("a line\n[SPMD] Involuntary full rematerialization. x\n")
  monkeypatch.setattr(placing, "_heard", lambda: heard)
  stem = str(tmp_path / "module_0001.jit_train_step.")
  for name, text in (
    (placing._REPORT, REPORT),
    (placing._BUFFERS, BUFFERS),
    (placing._LAST, "HloModule m"),
  ):
    pathlib.Path(stem + name).write_text(text)
  found = placing._read(stem, 1.5)
  assert (found.arguments, found.outputs, found.aliased) == (1300, 1040, 1000)
  assert found.total == 5000 and found.temporaries == 5000 - 1300 - 40
  assert found.text == "HloModule m" and found.seconds == 1.5
  assert len(found.warnings) == 1
