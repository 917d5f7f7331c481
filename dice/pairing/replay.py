"""Experience replay: offline pairs mixed with generated ones. Pure.

No prompt appears on both sides of the mixture, so what an offline set can give is counted in
prompts: N below is its number of distinct prompts, which is its number of pairs where every pair
has a prompt of its own, as in the paper's data.
"""

import math
import random
from collections.abc import Sequence

from dice.errors import BadInput, counted


def mixture_sizes(offline: int, generated: int, gamma: float) -> tuple[int, int]:
    """How many generated and how many offline pairs a round trains on.

    With N offline prompts and G generated pairs: n_gen = min(int(N * (1 - gamma)), G) and
    n_off = int(gamma * n_gen / (1 - gamma)). At gamma 0 all generated pairs and no offline ones; at
    gamma 1 no generated ones and N offline ones.
    """
    if gamma == 0:
        return generated, 0
    if gamma == 1:
        return 0, offline
    n_generated = min(int(offline * (1 - gamma)), generated)
    return n_generated, int(gamma * n_generated / (1 - gamma))


def check_size(offline: int, gamma: float) -> None:
    """Raises BadInput, saying how many are missing, where N offline prompts leave no room for any pair."""
    if not 0 < gamma < 1 or mixture_sizes(offline, offline, gamma)[0]:
        return
    needed = math.ceil(1 / (1 - gamma))
    if int(needed * (1 - gamma)) == 0:  # the product may be a rounding error below 1
        needed += 1
    raise BadInput(
        f"the offline set has {counted(offline, 'prompt')}, too few for replay.gamma {gamma}, which needs "
        f"{needed:,} beside a single generated pair; missing: {needed - offline:,}"
    )


def mix(
    generated_ids: Sequence[str],
    offline_ids: Sequence[str],
    gamma: float,
    seed: int,
    select: str = "random",
    margins: Sequence[float] = (),
) -> tuple[list[int], list[int]]:
    """Indices of the generated and of the offline pairs to train on, from their prompt ids.

    The offline pairs are drawn from those whose prompt is not among the generated ones drawn. There
    are always enough: n_gen prompts leave at least N - n_gen >= gamma * N >= n_off others.
    With `select` top (bottom) they are those of the largest (smallest) margins; ties are drawn, NaN is last.
    Raises BadInput where the offline set is too small for gamma.
    """
    check_size(len(set(offline_ids)), gamma)
    rng = random.Random(seed)
    n_generated, n_offline = mixture_sizes(len(set(offline_ids)), len(generated_ids), gamma)
    generated = sorted(rng.sample(range(len(generated_ids)), n_generated))
    taken = {generated_ids[index] for index in generated}
    free = [index for index, prompt in enumerate(offline_ids) if prompt not in taken]
    if select == "random":
        return generated, sorted(rng.sample(free, n_offline))
    rng.shuffle(free)  # sorting keeps the order of ties
    sign = -1 if select == "top" else 1
    free.sort(key=lambda index: (math.isnan(margins[index]), sign * margins[index]))
    return generated, sorted(free[:n_offline])
