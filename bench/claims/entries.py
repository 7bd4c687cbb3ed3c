"""Every claim of Bai, Kolter, Koltun (NeurIPS 2019, arXiv 1909.01377) that this harness can test.

`says` summarises the paper, it does not quote. Thresholds of the claims on the suites smoke, text and small and on the memory
record were fixed when these records had been read; those of the studies before the first of their records was made, those of
suite copy too, but its protocol was changed twice after final losses were seen. What an outside review rejected was judged again
(see each claim's `measured`), with thresholds as they were.
"""

from functools import partial

from bench.claims import judges_counts, judges_runs, judges_studies
from bench.claims.claim import SEEDS, Claim, Fixed
from bench.claims.entries_since import SINCE

SUITES = ("smoke", "text", "small", "copy", "speed", "ptb", "track", "iterate")  # whose comparisons are audited

_PAIRED = (
    "one-sided t tests on the log ratio paired by seed (from six seeds on sign flips, of equal values the exact sign test); "
    "Holm's correction over a claim's parts against it"
)
_COUNT = "a fact: a count, without a test"
_counted = partial(Claim, statistic=_COUNT, needs="`python -m bench memory`")
_paired = partial(Claim, statistic=_PAIRED)
_BEFORE: Fixed = "before its runs"
_copied = partial(Claim, statistic=_PAIRED, needs="suite copy", fixed="threshold before, protocol after")
_studied = partial(Claim, statistic=SEEDS, needs="`python -m bench claims --measure`", fixed=_BEFORE)

CLAIMS: tuple[Claim, ...] = (
    _counted(
        id="memory-saved",
        ledger="identities",
        says="Training takes memory that does not grow with depth: nothing of the solve is saved for backward.",
        where="abstract; section 3.1; figure 1",
        measured="bytes that autograd saves in a training step, at 2 to 64 solver steps",
        threshold="constant or bounded: the three deepest differ by at most 1 %",
        needs="suite smoke",
        judge=judges_counts.saved_is_constant,
    ),
    _counted(
        id="memory-whole",
        ledger="identities",
        says="A step's total memory does not grow with depth.",
        where="abstract; section 3.1",
        measured="the largest sum of live bytes in a training step, with the solver's history",
        threshold="constant or bounded",
        judge=judges_counts.peak_is_constant,
    ),
    *(
        _counted(
            id=id_,
            says=f"A DEQ takes {words}.",
            where=where,
            measured="GB of a training step of the paper's models, at its protocol, traced on fake tensors",
            threshold="the reduction that is claimed, by the paper's tables and by each literal reading of their caption",
            judge=partial(judges_counts.reduction, words=words),
        )
        for id_, words, where in (
            ("memory-88", "up to 88 % less", "abstract; section 5"),
            ("memory-80", "over 80 % less than weight-tied networks", "section 5.2; tables 2 and 3"),
            ("memory-60", "over 60 % less than networks that are not weight-tied", "section 5.2; table 3"),
            ("memory-checkpointing", "less than gradient checkpointing", "section 5.2; table 3"),
        )
    ),
    _counted(
        id="checkpointing",
        ledger="identities",
        says="Gradient checkpointing reduces memory to the square root of the depth.",
        where="section 2",
        measured="exponent of a step's bytes in depth, with segments of sqrt(L) layers",
        threshold="0.5, within 0.1",
        judge=judges_counts.checkpointing_is_a_root,
    ),
    Claim(
        id="computation",
        says="A DEQ has computational requirements similar to those of existing models.",
        where="abstract",
        measured="seconds of training until the DEQ's own final loss (caps 12 and 8 throughout) over those of the fastest explicit "
        "network, of any depth and length; FLOPs at the released caps are in memory/cost.md",
        statistic="95 % of resampled seeds",
        threshold="at most 2",
        needs="suite speed",
        judge=judges_runs.similar_computation,
    ),
    _paired(
        id="perplexity",
        says="At equal parameters a DEQ's perplexity is on par with that of the explicit network of its kind, or better.",
        where="abstract; tables 2 and 3",
        measured="test perplexity over that of the weight-tied and of the ordinary network, parameters within 2 %",
        threshold="below 1.05",
        needs="suites text, small and ptb",
        judge=judges_runs.perplexity_on_par,
    ),
    *(
        _copied(
            id=f"copy-{rival.lower()}",
            says=f"On copy memory a DEQ's loss is far below that of {article} {rival} of equal size.",
            where="table 1",
            measured=f"test loss at T=400 over the {rival}'s",
            threshold=f"below {threshold:g} (the paper's table: {printed})",
            judge=partial(judges_runs.loss_ratio, suites=("copy",), labels=[("DEQ*", f"{rival}*")], high=threshold),
        )
        for article, rival, threshold, printed in (("an", "LSTM", 0.1, "1/14,000"), ("a", "GRU", 0.1, "1/14,000"))
    ),
    _copied(
        id="copy-tcn",
        says="On copy memory a DEQ's loss is far below that of a TCN of equal size.",
        where="table 1",
        measured="share of seeds that recall 99.9 % of the ten symbols at T=400: where both copy, a loss ranks the scale of logits",
        statistic="Fisher's exact test; none where both copy in every seed",
        threshold="more seeds copy",
        fixed="after its records were known",
        judge=partial(judges_runs.copies_more, rival="TCN"),
    ),
    _copied(
        id="copy-chance",
        says="Recurrent networks stay at the loss of a predictor without memory.",
        where="table 1 (0.0501 and 0.0491; chance is 0.0495)",
        measured="test loss at T=400 over 10 ln 8 / (T + 20)",
        threshold="from 0.91 to 1.1",
        judge=judges_runs.recurrent_at_chance,
    ),
    _paired(
        id="converges",
        says="The equilibrium is found, almost always.",
        where="sections 3 and 5",
        measured="share of the test split's solves that meet a relative residual of 1e-3 within the cap (60 steps in most rows, "
        "100 of TrellisNet on Penn Treebank), of the paper's cells, trained by the implicit gradient; and the share of trained "
        "models in which it is so",
        threshold="above 0.99; of the models, in above 0.95",
        needs="suites smoke, text, small, copy and ptb",
        judge=judges_runs.converges,
    ),
    _paired(
        id="solver",
        says="What is learned does not depend on the solver.",
        where="theorem 1; section 3.1",
        measured="test loss of models trained and tested with one solver over that with another",
        threshold="from 0.91 to 1.1",
        needs="suites smoke and small",
        judge=partial(
            judges_runs.loss_ratio,
            suites=("smoke", "small"),
            labels=[("DEQ (Broyden)", "DEQ (Anderson)"), ("DEQ-TrellisNet, Picard", "DEQ-TrellisNet")],
            low=1 / 1.1,
            high=1.1,
        ),
    ),
    _paired(
        id="cell",
        says="The approach does not depend on the cell: it works for self-attention and for trellis networks.",
        where="sections 4 and 5",
        measured="test loss of a DEQ over each cell over that of the explicit network of that cell",
        threshold="below 1.1",
        needs="suite small",
        judge=partial(
            judges_runs.loss_ratio,
            suites=("small",),
            labels=[("DEQ-Transformer", "tied Transformer 12"), ("DEQ-TrellisNet", "TrellisNet 32")],
            high=1.1,
        ),
    ),
    _paired(
        id="stacking",
        says="Stacking DEQs gains nothing: one is as expressive as several.",
        where="theorem 2; section 3.3",
        measured="test loss of two stacked DEQs over that of one with as many parameters",
        threshold="above 0.95",
        needs="suite small",
        judge=partial(
            judges_runs.loss_ratio, suites=("small",), labels=[("DEQ-Transformer, stack of 2*", "DEQ-Transformer")], low=0.95
        ),
    ),
    _paired(
        id="training-time",
        says="Training takes 2 to 3 times as long as that of the explicit network.",
        where="section 5.3; table 4 (2.82 and 2.40)",
        measured="milliseconds of a training step over those of the ordinary explicit network (4 layers, 32 or 12 levels), on a "
        "CPU, one thread, at these sizes and caps",
        threshold="from 2 to 3",
        needs="suites small and ptb",
        judge=partial(judges_runs.step_time_within, low=2.0, high=3.0),
    ),
    _studied(
        id="inference-time",
        says="Inference takes 1.6 to 1.8 times as long as that of the explicit network.",
        where="section 5.3; table 4 (1.76 and 1.64)",
        measured="milliseconds of a batch without gradients, solved to 1e-3 or 60 evaluations, over those of the weight-tied "
        "network with 12 layers, on a CPU, one thread",
        statistic=_PAIRED,
        threshold="from 1.6 to 1.8",
        judge=partial(judges_studies.inference_time_within, low=1.6, high=1.8),
    ),
    _studied(
        id="steps-grow",
        says="Solves take more steps as training goes on.",
        where="section 5.3; figure 2, left",
        measured="evaluations to a relative residual of 1e-3 (cap 60) in the last tenth of the training over those in the first",
        threshold="above 1",
        judge=judges_studies.steps_grow,
    ),
    _studied(
        id="backward-shorter",
        says="The backward solve needs far fewer steps than the forward one.",
        where="section 5.3; figure 2, left",
        measured="evaluations of a backward solve over those of a forward one, both to 1e-3, over the whole training",
        threshold="below 0.8",
        judge=judges_studies.backward_is_shorter,
    ),
    _studied(
        id="tolerance",
        says="Quality does not suffer from a tolerance as loose as 0.1.",
        where="section 5.3; figure 3, left",
        measured="validation loss of one trained model at a relative tolerance of 0.1 less that at 1e-6",
        threshold="below 0.02 nats (2 % of perplexity), or a factor of 1.1 where the loss is below 0.2",
        judge=partial(judges_studies.loss_is_flat, study="tolerance", setting="rtol", loose=0.1, tight=1e-6),
    ),
    _studied(
        id="cap",
        says="A cap of 30 steps is enough.",
        where="section 5.3; figure 3, right",
        measured="validation loss of one trained model at a cap of 30 evaluations less that at 120",
        threshold="below 0.02 nats, or a factor of 1.1 where the loss is below 0.2",
        judge=partial(judges_studies.loss_is_flat, study="cap", setting="cap", loose=30, tight=120),
    ),
    _studied(
        id="tied-rest",
        says="A weight-tied network's layers need not converge.",
        where="figure 2, right; appendix D, figure 4",
        measured="share of sequences on which a trained tied network's map, iterated to 200 layers, changes by less than 1e-4",
        threshold="below 0.99 on some task",
        judge=judges_studies.tied_need_not_converge,
    ),
    _studied(
        id="root",
        says="The equilibrium is the same whichever root finder is used.",
        where="section 3.1; theorem 1",
        measured="of the sequences that two solvers both solve in float64 at 1e-6, the share with the same logits; of four "
        "solvers, one of them scipy's. How often a solve fails is another claim's question",
        statistic="exact binomial test over sequences, a pair of solvers at a time",
        threshold="above 0.99 for every pair; judged by seed at first, where one sequence could be a whole seed",
        judge=judges_studies.one_root,
    ),
    _studied(
        id="gradient",
        ledger="identities",
        says="The gradient at the equilibrium is exact, without backpropagating through the solve.",
        where="theorem 1",
        measured="the implicit gradient against a dense float64 solve of the implicit function theorem, all parameters",
        statistic="largest over seeds",
        threshold="relative error below 1e-6 at a tight tolerance; 1 - cosine below 0.01 as trained",
        judge=judges_studies.gradient_is_exact,
    ),
    _studied(
        id="batch",
        ledger="identities",
        says="A sequence's result does not depend on the batch that it is solved in.",
        where="section 5.3 (imbalance within batches is small)",
        measured="logits of a sequence alone and in batches of 2 to 64, stopped sample by sample",
        statistic="largest over sequences, seeds and sizes",
        threshold="below 1e-6 nats in float64 and 1e-2 in float32",
        judge=judges_studies.batch_does_not_matter,
    ),
    _studied(
        id="checkpointing-cost",
        ledger="identities",
        says="Gradient checkpointing costs one more forward pass.",
        where="section 2",
        measured="FLOPs of forward and backward with checkpointing over those without",
        statistic=_COUNT,
        threshold="4/3, within 0.07",
        judge=judges_studies.one_more_forward,
    ),
    _studied(
        id="no-fixed-point",
        ledger="identities",
        says="(Not in the paper: its weakness.) A map without a fixed point, or with an unstable one, is detected.",
        where="section 3.2 needs a stable start",
        measured="statuses of solves of such maps and of cells with N(0, 1) weights, and the records of their trainings",
        statistic=_COUNT,
        threshold="no sample is called converged that is not, every training is flagged",
        judge=judges_studies.failures_are_reported,
    ),
    *SINCE,
)
