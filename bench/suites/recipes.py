"""Recipes with a name: train a DEQ in about the time of the weight-tied network.

A few steps a solve suffice early in training; the last fifth is solved to the model's own caps, so that the trained state is an
equilibrium. Suite `speed` shows the trade-off.
"""

from bench.records.spec import Recipe

CAPPED_6_4 = Recipe(steps=6, backward_steps=4, hold=0.8)
CAPPED_4_3 = Recipe(steps=4, backward_steps=3, hold=0.8)
CAPPED_4_SHINE = Recipe(steps=4, hold=0.8)  # for the adjoint `shine`, by Broyden's method: nothing is solved backward
