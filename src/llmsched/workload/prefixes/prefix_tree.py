"""Prefix ids as a tree: which requests share how much from the first token on.

Rows that begin alike run through the same nodes. A node stands for ids in a row at which no request
ends and no two part, so that whatever is shared is shared by whole nodes, and a path has about as
many nodes as there are lengths at which something is shared, however long the prompt is.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from llmsched.workload.prefixes.prefix_ids import PrefixIds


class PrefixTree:
    """The compressed tree of prefix ids; at most two nodes per request.

    Parameters
    ----------
    prefix_ids : PrefixIds

    Examples
    --------
    >>> tree = PrefixTree(PrefixIds.of([[7, 8, 9], [7, 8, 5, 6], [7]], tokens_per_id=16))
    >>> [[ids for _, ids in tree.path(row)] for row in range(3)]
    [[1, 1, 1], [1, 1, 2], [1]]
    >>> tree.path(0)[:2] == tree.path(1)[:2]
    True
    """

    def __init__(self, prefix_ids: PrefixIds) -> None:
        n = len(prefix_ids)
        self._depth = array("i", (0,))  # ids from the root to the end of each node; 0 is the root
        self._parent = array("i", (0,))
        self._node = array("i", bytes(4 * n))  # where each request ends
        rows = [prefix_ids.row(request) for request in range(n)]
        texts = [row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows]
        order = sorted(range(n), key=texts.__getitem__)
        open_nodes = [0]  # the path to the row before, in sorted order
        before = np.empty(0)
        for request in order:
            row = rows[request]
            shared = _common(before, row)
            self._close(open_nodes, shared)
            if len(row) > shared:
                open_nodes.append(self._add(len(row)))
            self._node[request] = open_nodes[-1]
            before = row
        self._close(open_nodes, 0)

    def _close(self, open_nodes: list[int], shared: int) -> None:
        """Leave the path at a depth; where that is inside a node, part it there."""
        depth, parent = self._depth, self._parent
        while depth[open_nodes[-1]] > shared:
            node = open_nodes.pop()
            if depth[open_nodes[-1]] < shared:
                open_nodes.append(self._add(shared))
            parent[node] = open_nodes[-1]

    def _add(self, depth: int) -> int:
        self._depth.append(depth)
        self._parent.append(0)
        return len(self._depth) - 1

    def path(self, request: int) -> list[tuple[int, int]]:
        """The nodes that a request's ids run through, from the first id on, and the ids of each."""
        path = []
        node = self._node[request]
        while node:
            parent = self._parent[node]
            path.append((node, self._depth[node] - self._depth[parent]))
            node = parent
        path.reverse()
        return path


def _common(one: NDArray[np.generic], other: NDArray[np.generic]) -> int:
    """How many entries agree from the first on."""
    n = min(len(one), len(other))
    if not n or one[0] != other[0]:
        return 0
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n
