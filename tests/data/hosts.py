"""One law of all data: hosts share a batch, and a stop changes nothing."""

import json

import numpy as np

BATCHES, STOP = 9, 7


def batches(make, column, hosts=4):
  """The first batches of rows 8 and seed 3, once the law is seen to hold.

  Args:
    make: () -> data as ids.
    column: of a batch, which another seed changes.
    hosts: how many share a batch.
  """
  data = make()
  alone = data.train(8, 3)
  whole = [alone.next() for _ in range(BATCHES)]
  each = [data.train(8, 3, (i, hosts)) for i in range(hosts)]
  for want in whole:
    parts = [host.next() for host in each]
    for name in want:
      got = np.concatenate([p[name] for p in parts])
      np.testing.assert_array_equal(got, want[name])
  again = make().train(8, 3)
  again.set_state(json.loads(json.dumps({"batches": STOP})))
  for name, value in again.next().items():
    np.testing.assert_array_equal(value, whole[STOP][name])
  assert not np.array_equal(data.train(8, 4).next()[column], whole[0][column])
  return whole
