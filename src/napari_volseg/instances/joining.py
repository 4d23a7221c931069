"""Peaks of heights on a graph, and the smaller graph that the rest of a volume needs.

Nodes appear at their birth, edges at their weight, from the highest level down. A
component of at least `min_size` voxels has a *top*: the highest level at which it, or
a part of it, was that large. When components meet at a level, those with a top at
least `depth` above it are told apart; the others vanish in them. That is the dynamics
of peaks (Grimaud 1992, doi:10.1117/12.60650) after an area opening. It looks at sets
of voxels only, never at an order among equals.

Nodes of the *frontier* will get more edges later. What happens to components without
any is final; of the others a tree remains, in which each frontier node, and each peak
that hangs on one, is a node. It stands for the whole graph in a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "Forest",
    "Graph",
    "Joined",
    "climb",
    "join",
    "label_nodes",
    "sort_by_level",
]

Ids = NDArray[np.int32]
Heights = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, edges and voxels by level."""

    births: Heights
    """Level at which a node appears; 0 is never."""
    tops: Heights
    """Tops that nodes bring with them, 0 for none."""
    is_split: NDArray[np.bool_]
    """Nodes that stand for several peaks that are told apart already."""
    is_frontier: NDArray[np.bool_]
    roots: Ids
    """The node whose component a node belongs to from its birth on; see `climb`."""
    edges: NDArray[np.int32]
    """Nodes (E, 2), highest weight first."""
    edge_ends: NDArray[np.int64]
    """``edge_ends[l]`` is the number of edges of weight l or more; 257 items."""
    voxels: NDArray[np.int32]
    """Node and number of voxels (V, 2), highest first."""
    voxel_ends: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Forest:
    """How nodes were joined: the component of a node at any level."""

    births: Heights
    parents: Ids
    """The node that took a node in; itself for roots."""
    levels: Heights
    """Level at which that was; 0 for roots."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of a graph."""

    forest: Forest
    seeds: Ids
    """(S, 2): the component of this node at this level is a seed."""
    edges: Ids
    """(E, 3): two frontier nodes and the level at which they are joined."""
    pendants: Ids
    """(P, 5): node, its top, whether it is split, frontier node, level of joining."""
    voxels: Ids
    """(V, 3): frontier node, level, number of voxels that come in there."""


def join(graph: Graph, depth: int, min_size: int, floor: int = 1) -> Joined:
    """Join the nodes of a graph from the highest level down.

    Parameters
    ----------
    depth
        Least height of a top above the level at which it is told apart; above 255
        components are never told apart.
    min_size
        Least number of voxels of a component that counts.
    floor
        The lowest level: what lies below is left out, as if it were not in the graph.
    """
    is_root = graph.roots == np.arange(graph.roots.size, dtype=np.int32)
    levels = np.where(is_root, 0, graph.births).astype(np.uint8)
    parents, *found = _join(
        graph.births,
        graph.tops.copy(),
        graph.is_split.copy(),
        graph.is_frontier,
        graph.roots.copy(),
        graph.edges,
        graph.edge_ends,
        graph.voxels,
        graph.voxel_ends,
        max(depth, 1),
        max(min_size, 1),
        floor,
        levels,
    )
    return Joined(Forest(graph.births, parents, levels), *found)


def climb(
    births: Heights,
    stays: NDArray[np.bool_],
    edges: Ids,
    weights: Heights,
) -> tuple[Ids, Ids, Heights]:
    """Let each node that appears beside a component belong to it at once.

    It is no peak, for it never was alone, and `join` need not look at it. What is left
    is a node for each peak of the graph.

    Parameters
    ----------
    stays
        Nodes that are not to be lost: others may look for them, or they bring a top.

    Returns
    -------
    roots, edges, weights
        Of each node the one it belongs to, and the edges between these.
    """
    roots, n = _climb(births, stays, edges, weights)
    return roots, edges[:n], weights[:n]


def label_nodes(forest: Forest, seeds: Ids, ids: Ids) -> tuple[Ids, Heights]:
    """Return of each node the id of its seed, 0 for none, and the seed's level.

    Parameters
    ----------
    seeds
        (S, 2): the component of a node at a level gets the id; components with
        different ids are disjoint.
    """
    n = forest.births.size
    node_ids, node_levels = np.zeros(n, np.int32), np.zeros(n, np.uint8)
    if len(seeds):
        _label(
            forest.births,
            forest.parents,
            forest.levels,
            seeds,
            ids,
            node_ids,
            node_levels,
        )
    return node_ids, node_levels


@njit(nogil=True, cache=True)
def sort_by_level(
    items: Ids, levels: NDArray[np.integer[Any]]
) -> tuple[Ids, NDArray[np.int64]]:
    """Return pairs (N, 2) by falling level, and how many are of each level or above."""
    ends = np.zeros(258, np.int64)
    for level in levels:
        ends[level] += 1
    for level in range(256, -1, -1):
        ends[level] += ends[level + 1]
    ordered, at = np.empty(items.shape, np.int32), ends[1:].copy()
    for i in range(len(items)):
        place = at[levels[i]]
        ordered[place, 0], ordered[place, 1] = items[i, 0], items[i, 1]
        at[levels[i]] += 1
    return ordered, ends


@njit(nogil=True, cache=True)
def _find(up: Ids, node: int) -> int:
    while up[node] != node:
        up[node] = up[up[node]]
        node = up[node]
    return node


@njit(nogil=True, cache=True)
def _climb(
    births: Heights, stays: NDArray[np.bool_], edges: Ids, weights: Heights
) -> tuple[Ids, int]:
    """Return the roots and how many edges join two of them; those come first then."""
    up = np.arange(births.size).astype(np.int32)
    for e in range(len(edges)):
        a, b, weight = edges[e, 0], edges[e, 1], weights[e]
        if births[a] == weight and up[a] == a and not stays[a]:
            up[a] = _find(up, b)
        elif births[b] == weight and up[b] == b and not stays[b]:
            up[b] = _find(up, a)
    for node in range(births.size):
        up[node] = _find(up, node)
    n = 0
    for e in range(len(edges)):
        a, b = up[edges[e, 0]], up[edges[e, 1]]
        if a != b:
            edges[n, 0], edges[n, 1], weights[n] = a, b, weights[e]
            n += 1
    return up, n


@njit(nogil=True, cache=True)
def _put(rows: Ids, at: int, one: int, two: int, three: int) -> int:
    rows[at, 0] = one
    rows[at, 1] = two
    rows[at, 2] = three
    return at + 1


@njit(nogil=True, cache=True)
def _hang(
    rows: Ids, at: int, node: int, top: int, split: int, on: int, level: int
) -> int:
    rows[at, 3] = on
    rows[at, 4] = level
    return _put(rows, at, node, top, split)


@njit(nogil=True, cache=True)
def _join(
    births: Heights,
    tops: Heights,
    is_split: NDArray[np.bool_],
    is_frontier: NDArray[np.bool_],
    up: Ids,
    edges: Ids,
    edge_ends: NDArray[np.int64],
    voxels: Ids,
    voxel_ends: NDArray[np.int64],
    depth: int,
    min_size: int,
    floor: int,
    levels: Heights,
) -> tuple[Ids, Ids, Ids, Ids, Ids]:
    n = births.size
    parents = up.copy()
    n_nodes = np.ones(n, np.int32)
    n_voxels = np.zeros(n, np.int32)
    # A frontier node of the component, -1 where it is closed.
    rep = np.where(is_frontier, np.arange(n), -1).astype(np.int32)
    # The one peak found so far among those that meet at level `met`, -1 for none.
    peak = np.full(n, -1, np.int32)
    met = np.zeros(n, np.int16)
    # Nodes whose component is known to have a top, which it never loses.
    is_topped = np.zeros(n, np.bool_)
    n_seeds = n_edges = n_pendants = n_counts = 0
    seeds = np.empty((n, 2), np.int32)
    out_edges = np.empty((n, 3), np.int32)
    pendants = np.empty((n, 5), np.int32)
    counts = np.empty((n + len(voxels), 3), np.int32)

    for level in range(255, floor - 1, -1):
        for e in range(edge_ends[level + 1], edge_ends[level]):
            a, b = _find(up, edges[e, 0]), _find(up, edges[e, 1])
            if a == b:
                continue
            if rep[a] < 0 and rep[b] >= 0:
                a, b = b, a
            peak_a = peak_b = -1
            if rep[a] < 0:
                if met[a] == level:
                    peak_a = peak[a]
                elif not is_split[a] and tops[a] > 0 and tops[a] - level >= depth:
                    peak_a = a
            if rep[b] < 0:
                if met[b] == level:
                    peak_b = peak[b]
                elif not is_split[b] and tops[b] > 0 and tops[b] - level >= depth:
                    peak_b = b
            split, one = False, -1
            if rep[b] >= 0:
                n_edges = _put(out_edges, n_edges, rep[a], rep[b], level)
            elif rep[a] >= 0:
                if is_split[b]:
                    n_pendants = _hang(pendants, n_pendants, b, 0, 1, rep[a], level)
                elif peak_b >= 0 or tops[b] > tops[a]:
                    node = peak_b if peak_b >= 0 else b
                    n_pendants = _hang(
                        pendants, n_pendants, node, tops[b], 0, rep[a], level
                    )
                elif tops[a] == 0 and n_voxels[b] > 0:
                    n_counts = _put(counts, n_counts, rep[a], level, n_voxels[b])
            else:
                split = is_split[a] or is_split[b] or (peak_a >= 0 and peak_b >= 0)
                if split:
                    for child in (peak_a, peak_b):
                        if child >= 0:
                            seeds[n_seeds, 0] = child
                            seeds[n_seeds, 1] = level + 1
                            n_seeds += 1
                else:
                    one = max(peak_a, peak_b)
            root, other = (a, b) if n_nodes[a] >= n_nodes[b] else (b, a)
            rep[root] = rep[a]
            up[other] = parents[other] = root
            levels[other] = level
            n_nodes[root] += n_nodes[other]
            is_split[root], peak[root], met[root] = split, one, level
            tops[root] = max(tops[a], tops[b])
            n_voxels[root] = min(n_voxels[a] + n_voxels[b], min_size)
            if tops[root] == 0 and n_voxels[root] >= min_size:
                tops[root] = level
        for v in range(voxel_ends[level + 1], voxel_ends[level]):
            node = voxels[v, 0]
            if is_topped[node]:
                continue
            root = _find(up, node)
            is_topped[node] = tops[root] > 0
            if not is_topped[node]:
                n_voxels[root] = min(n_voxels[root] + voxels[v, 1], min_size)
                if rep[root] >= 0:
                    n_counts = _put(counts, n_counts, rep[root], level, voxels[v, 1])
                if n_voxels[root] >= min_size:
                    tops[root] = level

    for node in range(n):
        is_whole = parents[node] == node and rep[node] < 0 and not is_split[node]
        if is_whole and tops[node] >= floor:
            seeds[n_seeds, 0], seeds[n_seeds, 1] = node, floor
            n_seeds += 1
    return (
        parents,
        seeds[:n_seeds].copy(),
        out_edges[:n_edges].copy(),
        pendants[:n_pendants].copy(),
        counts[:n_counts].copy(),
    )


@njit(nogil=True, cache=True)
def _label(
    births: Heights,
    parents: Ids,
    levels: Heights,
    seeds: Ids,
    ids: Ids,
    node_ids: Ids,
    node_levels: Heights,
) -> None:
    at_roots = np.zeros(births.size, np.int32)
    seed_levels = np.zeros(births.size, np.uint8)
    for s in range(len(seeds)):
        node, level = seeds[s, 0], seeds[s, 1]
        while levels[node] >= level and parents[node] != node:
            node = parents[node]
        at_roots[node], seed_levels[node] = ids[s], level
    for start in range(births.size):
        node, reached = start, births[start]
        while reached > 0:
            if at_roots[node] > 0 and reached >= seed_levels[node]:
                node_ids[start] = at_roots[node]
                node_levels[start] = seed_levels[node]
                break
            reached = min(reached, levels[node])
            node = parents[node]
