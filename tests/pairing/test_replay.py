"""Mixing, against the published formulas worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dice.errors import BadInput, counted
from dice.pairing.replay import check_size, mix, mixture_sizes


@pytest.mark.parametrize(
    ("offline", "generated", "gamma", "expected"),
    [
        (10176, 9000, 0.5, (5088, 5088)),  # int(10176 * 0.5) = 5088; int(0.5 * 5088 / 0.5) = 5088
        (10176, 4000, 0.5, (4000, 4000)),  # fewer generated pairs than asked for
        (100, 100, 0.25, (75, 25)),  # int(100 * 0.75) = 75; int(0.25 * 75 / 0.75) = 25
        (100, 50, 0.75, (25, 75)),  # int(100 * 0.25) = 25; int(0.75 * 25 / 0.25) = 75
        (100, 30, 0.0, (30, 0)),
        (10, 30, 0.0, (30, 0)),  # gamma 0 takes all generated pairs, however few offline ones there are
        (100, 30, 1.0, (0, 100)),
    ],
)
def test_sizes(offline, generated, gamma, expected):
    assert mixture_sizes(offline, generated, gamma) == expected


def test_prompts_are_disjoint_and_the_seed_decides():
    prompts = [f"p{i}" for i in range(40)]
    generated, offline = mix(prompts[:20], prompts, 0.5, seed=1)
    assert len(generated) == len(offline) == 20
    assert not {prompts[i] for i in generated} & {prompts[i] for i in offline}
    assert mix(prompts[:20], prompts, 0.5, seed=1) == (generated, offline)

    few = mix(prompts[:20], prompts, 0.75, seed=1)
    assert (len(few[0]), len(few[1])) == (10, 30)
    assert mix(prompts[:20], prompts, 0.75, seed=2) != few


def test_both_ends():
    assert mix(["a", "b"], ["a", "c"], 0.0, seed=0) == ([0, 1], [])
    assert mix(["a", "b"], ["a", "c"], 1.0, seed=0) == ([], [0, 1])


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.sets(st.integers(0, 40), max_size=40),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_there_are_always_enough_offline_pairs(offline, generated, gamma, seed):
    """Also where the offline set has several pairs of a prompt, and prompts that were generated for."""
    offline_ids, generated_ids = [str(i) for i in offline], [str(i) for i in sorted(generated)]
    if 0 < gamma < 1 and int(len(set(offline)) * (1 - gamma)) == 0:
        with pytest.raises(
            BadInput, match=f"the offline set has {counted(len(set(offline)), 'prompt')}, too"
        ):
            mix(generated_ids, offline_ids, gamma, seed)
        return
    chosen, replayed = mix(generated_ids, offline_ids, gamma, seed)
    sizes = mixture_sizes(len(set(offline_ids)), len(generated_ids), gamma)
    assert (len(set(chosen)), len(set(replayed))) == sizes
    assert not {generated_ids[i] for i in chosen} & {offline_ids[i] for i in replayed}


@pytest.mark.parametrize(
    ("offline", "gamma", "missing"),
    [
        (1, 0.5, 1),  # int(2 * 0.5) = 1
        (3, 0.75, 1),  # int(4 * 0.25) = 1
        (0, 0.25, 2),  # int(1 * 0.75) = 0, int(2 * 0.75) = 1
        (1, 0.999, 999),  # 1,000 prompts for one pair
    ],
)
def test_too_few_offline_prompts_are_told_how_many_are_missing(offline, gamma, missing):
    with pytest.raises(BadInput, match=f"; missing: {missing}$"):
        check_size(offline, gamma)
    check_size(offline + missing, gamma)


def test_a_gamma_all_but_one_is_answered_at_once():
    with pytest.raises(BadInput, match="missing: 1,000,0"):
        check_size(100, 1 - 1e-12)
    check_size(0, 0.0)
    check_size(1, 1.0)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0])
def test_the_published_mixture(gamma):
    """100 offline prompts, 60 generated pairs of which 30 have an offline prompt."""
    generated_ids = [f"p{i}" for i in range(60)]
    offline_ids = [f"p{i}" for i in range(30, 130)]
    generated, offline = mix(generated_ids, offline_ids, gamma, seed=3)
    expected = {0.0: (60, 0), 0.25: (60, 20), 0.5: (50, 50), 1.0: (0, 100)}  # int(.25 * 60 / .75) = 20
    assert (len(generated), len(offline)) == expected[gamma]
    assert len(set(generated)) == len(generated) and len(set(offline)) == len(offline)
    assert not {generated_ids[i] for i in generated} & {offline_ids[i] for i in offline}


def test_offline_pairs_by_their_margins():
    """Of six offline pairs, p0 is taken by a generated one; the margin of p5 is not known."""
    offline, margins = [f"p{i}" for i in range(6)], [9.0, 1.0, 3.0, -2.0, 2.0, float("nan")]
    # int(0.7 * 1 / 0.3) = 2 beside the single generated pair
    assert mix(["p0"], offline, 0.7, 0, "top", margins) == ([0], [2, 4])
    assert mix(["p0"], offline, 0.7, 0, "bottom", margins) == ([0], [1, 3])


def test_ties_of_margins_are_drawn():
    offline = [f"p{i}" for i in range(30)]
    drawn = [mix(["x"] * 15, offline, 0.5, seed, "top", [0.0] * 30)[1] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
