"""The tree of prefix ids: shared nodes are shared prefixes."""

from __future__ import annotations

from itertools import takewhile

from hypothesis import given, strategies as st

from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.prefixes.prefix_tree import PrefixTree

ROWS = st.lists(st.lists(st.sampled_from([0, 1, 2**31 - 1]), max_size=7), max_size=12)


def common(one: list[int], other: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@given(ROWS)
def test_paths__share_the_nodes_of_what_the_rows_share(rows):
    tree = PrefixTree(PrefixIds.of(rows, tokens_per_id=16))
    paths = [tree.path(row) for row in range(len(rows))]
    for row, path in zip(rows, paths, strict=True):
        assert sum(ids for _, ids in path) == len(row)
        assert all(ids > 0 for _, ids in path)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            shared = sum(
                ids
                for (_, ids), _ in takewhile(
                    lambda p: p[0] == p[1], zip(paths[i], paths[j], strict=False)
                )
            )
            assert shared == common(one, other)
            apart = {node for node, _ in paths[i]} & {node for node, _ in paths[j]}
            assert sum(ids for node, ids in paths[i] if node in apart) == shared
    assert len({node for path in paths for node, _ in path}) <= 2 * len(rows)
