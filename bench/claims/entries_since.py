"""Claims made since 2019, by other papers, that the records of this harness can test.

`says` summarises a paper, it does not quote. All thresholds were fixed when records of the suites and studies had been read.
"""

from functools import partial

from bench.claims import judges_since as judges
from bench.claims.claim import SEEDS, Claim
from bench.claims.judges_runs import Labels

_NATS = "below 0.05 nats (5 % of perplexity), or a factor of 1.1 where the loss is below 0.2"
_since = partial(Claim, ledger="since", statistic=SEEDS)
_studied = partial(_since, needs="`python -m bench claims --measure`")
# On Sudoku at the implicit gradient's rate: trials at a third of the length chose one at which phantom steps train worse.
_ONE: Labels = (("phantom 1, rate 0.002", "implicit"),)
_FEW: Labels = (("DEQ-Transformer, phantom", "DEQ-Transformer"), ("phantom 5, rate 0.002", "implicit"))
_SHINE: Labels = (
    ("DEQ-Transformer, SHINE", "DEQ-Transformer"),
    ("DEQ, SHINE", "DEQ"),
    *((f"SHINE, rate {rate}", f"implicit, Broyden, rate {rate}") for rate in ("0.002", "0.004")),
)
_REVERSIBLE: Labels = (
    ("DEQ-Transformer, reversible", "DEQ-Transformer"),
    ("DEQ, reversible", "DEQ"),
    ("reversible", "implicit"),
)
_JACOBIAN: Labels = (("DEQ-Transformer, Jacobian", "DEQ-Transformer"), ("DEQ-TrellisNet, Jacobian", "DEQ-TrellisNet"))
_TRAINED = ("small", "speed", "ptb", "iterate")
_loss_excess = partial(judges.loss_excess, suites=_TRAINED, most=0.05)

SINCE: tuple[Claim, ...] = (
    _since(
        id="tracks-state",
        says="Implicit models track state on sequences longer than those of training.",
        where="Schöne et al. 2025, arXiv 2502.07827",
        measured="accuracy at the last token of the longest test sequences; trained at 16 tokens, solved by plain iteration",
        threshold="above 0.9",
        needs="suite track",
        judge=partial(
            judges.right_at_longest, labels=("DEQ-TrellisNet, Picard", "DEQ state-space", "DEQ state-space, strict"), least=0.9
        ),
    ),
    _since(
        id="solver-and-length",
        ledger="questions",
        says="Which solver is used does not matter on longer sequences (as theorem 1 may be read).",
        where="Bai et al. 2019, theorem 1",
        measured="accuracy at the last token of the longest test sequences, less that of the same network by plain iteration; of "
        "seeds that learned the training's length by both",
        threshold="above -0.05",
        needs="suite track",
        judge=partial(
            judges.right_by_solver,
            least=0.05,
            solvers=(
                *((f"DEQ-TrellisNet, {solver}", "DEQ-TrellisNet, Picard") for solver in ("Anderson", "Broyden", "reversible")),
                ("DEQ state-space, Anderson", "DEQ state-space"),
            ),
        ),
    ),
    _since(
        id="fixed-depth",
        says="Transformers, and state-space models with positive decays, do not track state.",
        where="Merrill, Petty, Sabharwal 2024, arXiv 2404.08819",
        measured="accuracy at the last token of the longest test sequences, of runs that learned the 16 tokens of the training",
        threshold="below 0.6",
        needs="suite track",
        judge=partial(judges.wrong_at_longest, labels=("Transformer-XL 4", "state-space"), most=0.6),
    ),
    _since(
        id="negative-decay",
        says="A state-space model tracks parity if its decays may be negative.",
        where="Grazzi et al. 2025, arXiv 2411.12537",
        measured="accuracy at the last token of the longest test sequences; trained at 16 tokens",
        threshold="above 0.9",
        needs="suite track",
        judge=partial(judges.right_at_longest, labels=("state-space, negative",), least=0.9, only="*parity"),
    ),
    *(
        _since(
            id=id_,
            says=says,
            where=where,
            measured=f"test loss of a DEQ trained by {way} less that of one trained by the implicit gradient",
            threshold=_NATS,
            needs=f"suite{'s' * (' ' in suites)} {suites}",
            judge=partial(_loss_excess, labels=labels, of_gradient=id_ != "reversible"),
        )
        for id_, says, where, way, suites, labels in (
            (
                "one-step",
                "A gradient of one step at the equilibrium trains as well as the exact one.",
                "Fung et al. 2022, arXiv 2103.12803; Wang et al. 2025, arXiv 2506.21734",
                "one phantom step",
                "iterate",
                _ONE,
            ),
            (
                "few-steps",
                "A gradient of a few steps at the equilibrium trains as well as the exact one.",
                "Geng et al. 2021, arXiv 2111.05177 (undamped here)",
                "phantom steps, four in suite small and five in iterate,",
                "small and iterate",
                _FEW,
            ),
            (
                "shared-inverse",
                "The forward solver's estimate of the inverse Jacobian is enough for the gradient.",
                "Ramzi et al. 2022 (SHINE), arXiv 2106.00553",
                "SHINE, with Broyden's method in place of Anderson's (so that it cannot tell, but on Sudoku by rate),",
                "speed, ptb and iterate",
                _SHINE,
            ),
            (
                "reversible",
                "A reversible solve, whose gradient is that of its own steps, trains as well as the implicit gradient.",
                "McCallum et al. 2025, arXiv 2509.12917",
                "the reversible iteration",
                "small, ptb and iterate",
                _REVERSIBLE,
            ),
        )
    ),
    _since(
        id="jacobian",
        says="Regularising the Jacobian makes solves converge at no loss of quality.",
        where="Bai, Koltun, Kolter 2021, arXiv 2106.14342",
        measured="test loss, and share of test solves that converge, less those without the regularisation",
        threshold=f"loss {_NATS}; share above 0",
        needs="suites small and ptb",
        judge=judges.both(
            partial(_loss_excess, labels=_JACOBIAN), partial(judges.more_solves_converge, suites=_TRAINED, labels=_JACOBIAN)
        ),
    ),
    _since(
        id="more-steps",
        says="More solver steps at test time than in training improve the result.",
        where="Anil et al. 2022, arXiv 2211.09961; Geiping et al. 2025, arXiv 2502.05171",
        measured="test loss of a model at a cap of 60 evaluations (TrellisNet on Penn Treebank 100) over that at its cap in "
        "training, 12 to 30; in suite iterate also on harder problems, elsewhere on test data like the training's",
        threshold="below 1",
        needs="suites small, ptb and iterate",
        judge=partial(
            judges.more_steps_help,
            suites=("small", "ptb", "iterate"),
            labels=("DEQ-Transformer", "DEQ-TrellisNet", "implicit"),
            factor=1.0,
        ),
    ),
    _studied(
        id="steps-and-length",
        says="More iterations at test time than in training solve longer sequences than those of training.",
        where="Schwarzschild et al. 2021, arXiv 2106.04537; Anil et al. 2022, arXiv 2211.09961",
        measured="accuracy at the last of 128 tokens at a cap of 256 evaluations less that at 32; trained at 16 tokens and 30 "
        "evaluations, the looped network at 16 on average. That 32 evaluations do not do is by construction, as the cell reaches "
        "one token an evaluation; that 256 do is not",
        threshold="above 0.1",
        judge=partial(judges.more_steps_solve_longer, cap=32, least=0.1),
    ),
    _studied(
        id="same-state",
        says="Where a solve starts does not matter.",
        where="Anil et al. 2022, arXiv 2211.09961",
        measured="share of converged pairs of solves that end in the same state: from zero, and from noise or the state of another "
        "sequence",
        threshold="above 0.99",
        judge=partial(judges.same_state, least=0.99),
    ),
    _studied(
        id="warm-start",
        says="A solve that starts at the solution before saves evaluations.",
        where="Bai et al. 2022, arXiv 2204.08442 (video; here: a text)",
        measured="share of evaluations to 1e-2 saved where a window moves on by one token and starts at its own states; starts at "
        "the state of the segment before, which no paper claims, are in warm-start.md",
        threshold="above 0.1",
        judge=partial(judges.warm_start_saves, rtol=1e-2, least=0.1),
    ),
)
