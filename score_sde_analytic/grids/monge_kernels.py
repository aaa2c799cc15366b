"""The compiled loops of the Monge solver; importing this module needs numba.

All work on v = expm1(2 cost), which keeps small costs exact and needs no exponential or logarithm per step when d = 1:

    expm1(2 c(i, j)) = slope_j (level_i - level_j),   level = expm1(lam - lam_N-1),   slope = R / (1 + level)
    v(sum of two costs) = v + v' + v v'

`level` is (N,), `slope` is (N,) or, for d > 1, (N, d); the kernels are compiled for either shape.
"""
# mypy: allow-untyped-defs

import inspect

import numpy as np
from numba import njit


def kernel(function):
    """Compile a loop, cached on disk; unwrap removes the shape checks of a test run."""
    return njit(cache=True)(inspect.unwrap(function))


@kernel
def through(level, slope, i, j, rest):
    """v of the step from j down to i, followed by what has v = rest."""
    rise = level[i] - level[j]
    if slope.ndim == 1:
        step = slope[j] * rise
    else:
        nats, step, dim = 0.0, 0.0, slope.shape[1]
        for k in range(dim):
            step += slope[j, k] * rise * (1.0 + step)
            if step > 1e150:  # the next factor may be as large as exp(MAX_SPAN)
                nats += np.log1p(step)
                step = 0.0
        step = np.expm1((nats + np.log1p(step)) / dim)
    return rest + step * (1.0 + rest)


@kernel
def cheapest(level, slope, i, low, high, rest):
    """(j, v) of the best successor of i among low .. high."""
    best, value = low, np.inf
    for j in range(low, high + 1):
        v = through(level, slope, i, j, rest[j])
        if v < value:
            best, value = j, v
    return best, value


@kernel
def table(level, slope, nearest, first, max_steps):
    """(successors (max_steps, N) by number of arcs, best first points, costs in nats) of all numbers of steps."""
    n = len(level)
    successors = np.full((max_steps, n), n - 1, dtype=np.int32)
    starts, values = np.full(max_steps, n - 1), np.full(max_steps, np.inf)
    values[0] = first[n - 1]
    rest, count, gap = np.zeros(n), n, 0
    floor = np.full(n, n - 1)  # no arcs lead to the end from the end alone
    for arcs in range(1, max_steps):
        last = count - 1
        count = np.searchsorted(nearest, last, side="right")  # points that `arcs` arcs connect to the end
        if count == 0:
            break
        fewer, successor = successors[arcs - 1], successors[arcs]
        stride = 1
        while 2 * stride <= gap:
            stride *= 2
        rest = layer(level, slope, floor, last, count, stride, rest, fewer, successor)
        for i in range(count):
            if first[i] < np.inf:
                value = first[i] + 0.5 * np.log1p(rest[i])
                if value < values[arcs]:
                    starts[arcs], values[arcs] = i, value
        # Each layer differs from the last by about as much as that from the one before, or less.
        gap = np.sum(fewer[:count] - successor[:count]) // count if arcs > 1 else n // 2
        floor = nearest
    return successors, starts, values


@kernel
def free_table(level, slope, nearest, first, top, max_steps):
    """The same where a path may end at any point, which costs v = `top` there.

    Successors never fall along the index whatever the ends cost, but they may rise with the number of arcs: layers are searched
    by halves, without the last layer's successors.
    """
    n = len(level)
    successors = np.full((max_steps, n), n - 1, dtype=np.int32)
    starts, values = np.full(max_steps, n - 1), np.full(max_steps, np.inf)
    widest = np.full(n, n - 1, dtype=np.int32)
    rest, count, stride = top.copy(), n, 1
    while 2 * stride <= n:
        stride *= 2
    for arcs in range(max_steps):
        if arcs > 0:
            last = count - 1
            count = np.searchsorted(nearest, last, side="right")
            if count == 0:
                break
            rest = layer(level, slope, nearest, last, count, stride, rest, widest, successors[arcs])
        for i in range(count):
            if first[i] < np.inf and rest[i] < np.inf:
                value = first[i] + 0.5 * np.log1p(rest[i])
                if value < values[arcs]:
                    starts[arcs], values[arcs] = i, value
    return successors, starts, values


@kernel
def layer(level, slope, nearest, last, count, stride, rest, fewer, successor):
    """Writes the best successors of 0 .. count - 1 and returns their v, with one arc more than `rest` has.

    Best successors never fall along the index, nor rise with the number of arcs: if a path of m - 1 arcs starts with a shorter
    arc than one of m arcs, a later arc of it contains one of the other, and exchanging the ends of these two shows that either
    first arc serves either number. So every `stride`-th point is scanned between its left neighbour's successor and its own
    with one arc `fewer`, then the points in between likewise from both sides. Near ties, a window may exclude the best
    successor, but then holds one that is as good to rounding.
    """
    value = np.full(len(level), np.inf)
    low = 0
    for i in range(0, count, stride):
        low, value[i] = cheapest(level, slope, i, max(low, nearest[i]), min(fewer[i], last), rest)
        successor[i] = low
    while stride > 1:
        half = stride // 2
        for i in range(half, count, stride):
            high = min(fewer[i], last)
            if i + half < count:
                high = min(high, successor[i + half])
            successor[i], value[i] = cheapest(level, slope, i, max(successor[i - half], nearest[i]), high, rest)
        stride = half
    return value


@kernel
def relaxed(level, slope, toll):
    """(v, successor) of the shortest path from each point to the end when each arc also costs a price, toll = expm1(2 price).

    The queue holds the points that are the best successor of some point below, each with the highest such point: from the
    front, the best now, to the back, the newest, the best for the lowest.
    """
    n = len(level)
    rest, successor = np.zeros(n), np.full(n, n - 1, dtype=np.int32)
    queue, since = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    front, back = 0, 0
    queue[0], since[0] = n - 1, n - 2
    for i in range(n - 2, -1, -1):
        while front < back and since[front + 1] >= i:
            front += 1
        successor[i] = queue[front]
        v = through(level, slope, i, successor[i], rest[successor[i]])
        rest[i] = v + toll * (1.0 + v)
        while back >= front and beats(level, slope, rest, i, queue[back], min(since[back], i - 1)):
            back -= 1
        top = i - 1 if back < front else takeover(level, slope, rest, i, queue[back], min(since[back], i - 1))
        if top >= 0:
            back += 1
            queue[back], since[back] = i, top
    return rest, successor


@kernel
def beats(level, slope, rest, new, old, i):
    """Whether `new` is a better successor of i than `old` > new; if so, also of every point below i."""
    return i >= 0 and through(level, slope, i, new, rest[new]) < through(level, slope, i, old, rest[old])


@kernel
def takeover(level, slope, rest, new, old, bound):
    """The highest point below `bound` of which `new` is a better successor than `old`; -1 if none. Near `bound` as a rule."""
    low, high, reach = bound - 1, bound, 1
    while low >= 0 and not beats(level, slope, rest, new, old, low):
        low, high, reach = low - reach, low, 2 * reach
    low = max(low, -1)
    while high - low > 1:
        middle = (low + high) // 2
        if beats(level, slope, rest, new, old, middle):
            low = middle
        else:
            high = middle
    return low


@kernel
def follow(successor, start):
    """The path from `start` to the end."""
    size, i = 1, start
    while i < len(successor) - 1:
        i = successor[i]
        size += 1
    path = np.empty(size, dtype=np.int64)
    i = start
    for k in range(size):
        path[k] = i
        i = successor[i]
    return path


@kernel
def unroll(successors, starts):
    """The paths of 0, 1, .. arcs from their starts, one after the other in one array."""
    points = len(starts)
    here, paths = starts.copy(), np.empty(points * (points + 1) // 2, dtype=np.int64)
    for row in range(points - 1, -1, -1):  # all paths by one arc, so that a row is read once
        for arcs in range(row, points):
            paths[arcs * (arcs + 1) // 2 + arcs - row] = here[arcs]
            here[arcs] = successors[row, here[arcs]]
    return paths
