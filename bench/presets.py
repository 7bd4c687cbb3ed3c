"""Recipes with a name: how to train a DEQ in about the time of the weight-tied network.

A few solver steps are enough to find out where the equilibrium should go; the last fifth of the training, solved to the model's own
caps, sees to it that it is one. The trade-off is drawn in the suite `speed`.
"""

from bench.recipe import FAST
from bench.spec import Recipe

LEAN = Recipe(steps=4, backward_steps=3, hold=0.8)
SHARED = Recipe(steps=4, hold=0.8)  # for the adjoint `shine`, by Broyden's method: nothing is solved backward
PRESETS = {"fast": FAST, "lean": LEAN, "shared": SHARED}
