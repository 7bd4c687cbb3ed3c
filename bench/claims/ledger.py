"""Every claim of Bai, Kolter, Koltun (NeurIPS 2019, arXiv 1909.01377) that this harness can test, as data.

Thresholds were written down before the runs that they judge. What the paper says is told in short, not quoted.
"""

from bench.claims import counted, measured
from bench.claims.claim import Claim

_SEEDS = "one-sided t tests on the log ratio paired by seed (from six seeds on sign flips); Holm over a claim's parts against it"
_COUNTED = "counted, no chance in it"
_MEMORY = "`python -m bench memory`"

CLAIMS = (
    Claim(
        id="memory-saved",
        says="Training takes memory that does not grow with depth: nothing of the solve is saved for backward.",
        where="abstract; section 3.1; figure 1",
        measured="bytes that autograd saves in a training step, at 2 to 64 solver steps",
        statistic=_COUNTED,
        threshold="constant or bounded: the three deepest differ by at most 1 %",
        needs="suite smoke",
        judge=counted.saved_is_constant,
    ),
    Claim(
        id="memory-whole",
        says="The whole of a step's memory does not grow with depth.",
        where="abstract; section 3.1",
        measured="the largest sum of live bytes in a training step, the solver's own history with it",
        statistic=_COUNTED,
        threshold="constant or bounded",
        needs=_MEMORY,
        judge=counted.peak_is_constant,
    ),
    *(
        Claim(
            id=id_,
            says=f"A DEQ takes {words}.",
            where=where,
            measured="GB of a training step of the paper's models, at its protocol, followed on fake tensors",
            statistic=_COUNTED,
            threshold="the reduction that is claimed, by the paper's tables and by each literal reading of their caption",
            needs=_MEMORY,
            judge=counted.reduction(words),
        )
        for id_, words, where in (
            ("memory-88", "up to 88 % less", "abstract; section 5"),
            ("memory-80", "over 80 % less than weight-tied networks", "section 5.2; tables 2 and 3"),
            ("memory-60", "over 60 % less than networks that are not weight-tied", "section 5.2; table 3"),
            ("memory-checkpointing", "less than gradient checkpointing", "section 5.2; table 3"),
        )
    ),
    Claim(
        id="checkpointing",
        says="Gradient checkpointing reduces memory to the square root of the depth.",
        where="section 2",
        measured="exponent of a step's bytes in depth, with segments of sqrt(L) layers",
        statistic=_COUNTED,
        threshold="0.5, within 0.1",
        needs=_MEMORY,
        judge=counted.checkpointing_is_a_root,
    ),
    Claim(
        id="computation",
        says="A DEQ has computational requirements similar to those of existing models.",
        where="abstract",
        measured="FLOPs of a training step and of inference at the released caps, over the explicit network's",
        statistic=_COUNTED,
        threshold="from 1/2 to 2",
        needs=_MEMORY,
        judge=counted.similar_computation,
    ),
    Claim(
        id="perplexity",
        says="At equal parameters a DEQ's perplexity is on par with that of the explicit network of its kind, or better.",
        where="abstract; tables 2 and 3",
        measured="test perplexity over that of the weight-tied and of the ordinary network, parameters within 2 %",
        statistic=_SEEDS,
        threshold="below 1.05",
        needs="suites text and small",
        judge=measured.perplexity_on_par,
    ),
    *(
        Claim(
            id=f"copy-{rival.lower()}",
            says=f"On copy memory a DEQ's loss is far below that of {article} {rival} of equal size.",
            where="table 1",
            measured=f"test loss at T=400 over the {rival}'s",
            statistic=_SEEDS,
            threshold=f"below {threshold:g} (the paper's table: {printed})",
            needs="suite copy",
            judge=measured.copying(rival, threshold),
        )
        for article, rival, threshold, printed in (
            ("an", "LSTM", 0.1, "1/14,000"),
            ("a", "GRU", 0.1, "1/14,000"),
            ("a", "TCN", 0.5, "1/8"),
        )
    ),
    Claim(
        id="copy-chance",
        says="Recurrent networks stay at the loss of a predictor without memory.",
        where="table 1 (0.0501 and 0.0491; chance is 0.0495)",
        measured="test loss at T=400 over 10 ln 8 / (T + 20)",
        statistic=_SEEDS,
        threshold="from 0.91 to 1.1",
        needs="suite copy",
        judge=measured.recurrent_at_chance,
    ),
    Claim(
        id="converges",
        says="The equilibrium is found, almost always.",
        where="sections 3 and 5",
        measured="share of the test split's solves that meet a relative residual of 1e-3 within the cap (60 steps in most rows)",
        statistic=_SEEDS,
        threshold="above 0.99",
        needs="suites smoke, text and small",
        judge=measured.converges,
    ),
    Claim(
        id="solver",
        says="What is learnt does not depend on the solver.",
        where="theorem 1; section 3.1",
        measured="test loss of models trained and tested with one solver over that with another",
        statistic=_SEEDS,
        threshold="from 0.91 to 1.1",
        needs="suites smoke and small",
        judge=measured.trained_by_another_solver,
    ),
    Claim(
        id="cell",
        says="The approach does not depend on the cell: it works for self-attention and for trellis networks.",
        where="sections 4 and 5",
        measured="test loss of a DEQ over each cell over that of the explicit network of that cell",
        statistic=_SEEDS,
        threshold="below 1.1",
        needs="suite small",
        judge=measured.any_cell,
    ),
    Claim(
        id="stacking",
        says="Stacking DEQs gains nothing: one is as expressive as several.",
        where="theorem 2; section 3.3",
        measured="test loss of two stacked DEQs over that of one with as many parameters",
        statistic=_SEEDS,
        threshold="above 0.95",
        needs="suite small",
        judge=measured.stacking,
    ),
    Claim(
        id="training-time",
        says="Training takes 2 to 3 times as long as that of the explicit network.",
        where="section 5.3; table 4 (2.82 and 2.40)",
        measured="milliseconds of a training step over the explicit network's, on a CPU, one thread, at these sizes and caps",
        statistic=_SEEDS,
        threshold="from 2 to 3",
        needs="suites smoke, text and small",
        judge=measured.slower(2.0, 3.0),
    ),
)
