# DICE with its pinned stack; what is installed, and how, stands in scripts/setup.sh.
#
#   docker build --target cpu -t dice:cpu .
#   docker build --target cuda -t dice:cuda .
#   docker run --gpus all --shm-size 16g -v "$PWD/data:/dice/data" -v "$PWD/results:/dice/results" \
#     -v "$HOME/.cache/huggingface:/root/.cache/huggingface" dice:cuda bash scripts/run_dice/iter.sh qwen-small
FROM python:3.12-slim-bookworm AS cpu
# A compiler: parts of the stack build code when they run.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /dice
COPY . .
RUN DICE_DEVICE=cpu bash scripts/setup.sh
CMD ["bash", "scripts/run_dice/iter.sh", "tiny"]

# DeepSpeed and vLLM compile kernels, for which they want nvcc.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /dice
COPY . .
RUN DICE_DEVICE=gpu bash scripts/setup.sh
CMD ["bash", "scripts/run_dice/iter.sh"]
