"""The layout of packs and the blocks of their attention, by hand."""

import pytest

from dice.inference.packing import Pack, Segment, blocks, fill, group_by_prompt

ROWS = [([1, 2, 3], [4, 5]), ([9], [8, 7, 6]), ([1, 2, 3], [6, 6, 6]), ([1, 2, 3], [2])]


def test_rows_of_one_prompt_come_together_whatever_their_order():
    first, second = group_by_prompt(ROWS)
    assert (first.prompt, first.responses) == ([1, 2, 3], [(0, [4, 5]), (2, [6, 6, 6]), (3, [2])])
    assert (second.prompt, second.responses) == ([9], [(1, [8, 7, 6])])


def test_one_pack_by_hand():
    """Prompt 1 2 3, then 4 (of 4 5), 6 6 (of 6 6 6), nothing of the single 2; prompt 9, then 8 7."""
    pack, behind = fill(group_by_prompt(ROWS), (0, 0), 100)
    assert behind == (2, 0)
    assert pack.ids == [1, 2, 3, 4, 6, 6, 9, 8, 7]
    assert pack.positions == [0, 1, 2, 3, 3, 4, 0, 1, 2]
    assert pack.segments == [
        Segment((0, 3), ((0, 3),)),
        Segment((3, 4), ((0, 3), (3, 4))),
        Segment((4, 6), ((0, 3), (4, 6))),
        Segment((6, 7), ((6, 7),)),
        Segment((7, 9), ((6, 7), (7, 9))),
    ]
    assert pack.targets == [4, 5, 6, 6, 6, 2, 8, 7, 6]
    assert pack.predictors == [2, 3, 2, 4, 5, 2, 6, 7, 8]  # state 2 is the prompt's last token
    assert pack.rows == [(0, 2), (2, 3), (3, 1), (1, 3)]
    assert (pack.carried, pack.carry) == (0, None)


def test_a_prompt_is_carried_over_a_full_pack():
    groups = group_by_prompt(ROWS)
    first, at = fill(groups, (0, 0), 4)
    assert (first.ids, at) == ([1, 2, 3, 4], (0, 2))
    assert (first.carry, first.carry_state) == ((0, 3), 2)
    second, at = fill(groups, at, 4)
    # Keys 0 to 2 and state 0 are the carried prompt's; the single-token response costs nothing.
    assert (second.carried, second.ids, second.positions, at) == (3, [6, 6, 9], [3, 4, 0], (1, 1))
    assert second.segments == [Segment((0, 2), ((0, 3), (3, 5))), Segment((2, 3), ((5, 6),))]
    assert second.predictors == [0, 1, 2, 0]
    assert (second.carry, second.carry_state) == ((5, 6), 3)
    third, at = fill(groups, at, 4)
    assert (third.carried, third.ids, third.positions, third.carry, at) == (1, [8, 7], [1, 2], None, (2, 0))


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 100])
def test_packs_hold_the_budget_and_every_row_once(budget):
    groups = group_by_prompt(ROWS)
    at, rows, fed = (0, 0), [], 0
    while at[0] < len(groups):
        pack, at = fill(groups, at, budget)
        assert pack.ids
        assert len(pack.ids) <= budget or len(pack.segments) == 1
        rows += [row for row, _ in pack.rows]
        fed += len(pack.ids)
    assert sorted(rows) == [0, 1, 2, 3]
    assert fed == 9  # two prompts of 3 and 1, responses of 2, 3, 1 and 3 tokens but for the last


def test_blocks_by_hand():
    """Short responses share a block; a prompt of 5 and a response of 4 are cut in pieces of 3."""
    pack = Pack()
    pack.add_prompt([1] * 5)
    for row, length in enumerate((2, 3, 5)):  # 1, 2 and 4 tokens are fed
        pack.add_response(row, [7] * length)
    assert list(blocks(pack, 3)) == [
        Segment((0, 3), ((0, 3),)),
        Segment((3, 5), ((0, 5),)),
        Segment((5, 8), ((0, 5), (5, 8))),
        Segment((8, 11), ((0, 5), (8, 11))),
        Segment((11, 12), ((0, 5), (8, 12))),
    ]
    apart = [Segment((5, 6), ((0, 5), (5, 6))), Segment((6, 8), ((0, 5), (6, 8)))]
    assert list(blocks(pack, 3, joins=False))[2:4] == apart
