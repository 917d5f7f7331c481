"""`python -m dice evaluate RUN --benchmark=NAME`: AlpacaEval 2, Arena-Hard, MT-Bench, and lm_eval's tasks.

Every model of a run answers a benchmark's questions as the benchmark has it, into files that its own tools
read; a judge that the environment names compares or grades them. Answers and judgments are stages of
their own under results/RUN/benchmarks/. lm_eval, EleutherAI's harness, asks and scores by itself.

    evaluation > alpaca_eval2, arena_hard, mt_bench > answers, judging, style > results, task > questions
    evaluation > harness > harness_worker > results, task

`results` loads nothing that is heavy, since `status` and the report read it.
"""

from dice.launch.worker import Worker
from dice.tools.benchmarks.results import Result
from dice.tools.benchmarks.results import results as results_of

__all__ = ["Result", "results_of", "work"]


def work(worker: Worker, *arguments: str) -> None:
    """A worker's share of some answers; what samples them is loaded only here."""
    from dice.tools.benchmarks import answers

    answers.work(worker, *arguments)
