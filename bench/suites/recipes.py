"""Named recipes: cap the steps of each solve for the first four fifths of training, then use the model's own caps.

CAPPED_f_b caps forward solves at f and backward solves at b steps; suite `speed` compares them. CAPPED_4_SHINE is for adjoint
`shine`, which has no backward solve.
"""

from bench.records.spec import Recipe

CAPPED_6_4 = Recipe(steps=6, backward_steps=4, hold=0.8)
CAPPED_4_3 = Recipe(steps=4, backward_steps=3, hold=0.8)
CAPPED_4_SHINE = Recipe(steps=4, hold=0.8)
