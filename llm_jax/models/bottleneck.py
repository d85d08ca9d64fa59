"""A small two-layer map beside a sublayer, where an adapter brings one.

Dimension key: B sequences; T positions; D residual; R bottleneck width.
"""

import flax.linen as nn
import jax


class Bottleneck(nn.Module):
  """y + relu(y down + down_bias) up + up_bias. arXiv:1902.00751, figure 2.

  Reads collection "adapters"; without it, y.
  """

  @nn.compact
  def __call__(self, y_BTD: jax.Array) -> jax.Array:
    if not self.has_variable("adapters", "down"):
      return y_BTD

    def array(name: str) -> jax.Array:
      return self.get_variable("adapters", name).astype(y_BTD.dtype)

    h_BTR = jax.nn.relu(y_BTD @ array("down") + array("down_bias"))
    return y_BTD + h_BTR @ array("up") + array("up_bias")
