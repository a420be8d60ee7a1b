"""Sums whose order of additions does not depend on where they are made."""

import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.streamed_average import StreamedAverage
from pipar_rpc.aggregation.sum_tree import TreeSum, blocks_of, smallest_block, sum_of
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.ranks import holder_of
from pipar_rpc.coordination.average_parts import PartOfAverage

NAMES = ("unit1.weight", "unit2.weight", "unit3.weight", "unit3.count")


def test_additions_by_hand():
    added = []

    class Term(str):
        def add_(self, other):
            added.append((self, other))
            return Term(f"{self}{other}")

    assert sum_of(smallest_block(5), Term, 5) == "01234"
    assert added == [("0", "1"), ("2", "3"), ("01", "23"), ("0123", "4")]
    assert list(blocks_of([1, 2, 3, 4], 5)) == [(1, 1), (2, 2), (4, 4)]
    assert list(blocks_of(range(5), 5)) == [(0, 8)]


def network(number):
    rng = generator(number, "test")
    tensors = [torch.randn(50, generator=rng) * 10.0 ** (number % 3) for _ in NAMES[:3]]
    return dict(zip(NAMES, (*tensors, torch.tensor(number * 3 % 7)), strict=True))


def test_parts_of_several_ranks_make_the_average_bit_for_bit():
    """Also where devices are cut at other layers, and whichever of them take part."""
    for count, servers in [(1, 1), (2, 2), (3, 2), (5, 2), (6, 3), (8, 3), (9, 4)]:
        networks, samples = [network(k) for k in range(count)], [k % 4 + 1 for k in range(count)]
        shares = [number / float(sum(samples)) for number in samples]
        on_server = [NAMES[1 + k % 2 :] if count % 2 else NAMES[1:] for k in range(count)]
        terms, parts = {}, {}
        for k, own in enumerate(networks):
            terms[k] = {name: own[name] for name in NAMES if name not in on_server[k]}
            half = {name: own[name] for name in on_server[k]}
            parts.setdefault(holder_of(k + 1, count, servers), {})[k] = half
        made = [PartOfAverage.of(states, dict(enumerate(shares)), count) for states in parts.values()]
        average = StreamedAverage(shares)
        for k, own in terms.items():
            average.add(k, own)
        for part in made:
            part.add_to(average)
        found = average.result(networks[0])
        expected = weighted_average(networks, samples)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), (count, servers)
        if count == 8:  # one sum for several devices
            assert any(part.sums for part in made)


class Term(str):
    """A sum as a string that shows which additions made it."""

    def add_(self, other):
        return Term(f"({self}{other})")


def test_blocks_in_any_order_are_added_as_in_the_tree():
    """Of those that come in order, one of each size waits: log2 of their number."""
    for count in range(1, 20):
        expected = sum_of(smallest_block(count), lambda k: Term(f"{k},"), count)
        for seed in range(5):
            numbers = (
                torch.randperm(count, generator=generator(seed, "test")).tolist() if seed else range(count)
            )
            found, most = TreeSum(count), 0
            for k in numbers:
                found.add((k, 1), Term(f"{k},"))
                most = max(most, len(found._sums))
            assert found.total == expected, (count, seed)
            assert seed or most <= count.bit_length()
    found = TreeSum(7)
    for block, total in [((4, 2), "(4,5,)"), ((0, 4), "((0,1,)(2,3,))"), ((6, 1), "6,")]:
        found.add(block, Term(total))
    assert found.total == sum_of((0, 8), lambda k: Term(f"{k},"), 7)


def test_devices_of_a_server_rank_follow_each_other():
    assert [holder_of(k, 5, 2) for k in range(1, 6)] == ["server"] * 3 + ["server2"] * 2
    assert [holder_of(k, 3, 3) for k in range(1, 4)] == ["server", "server2", "server3"]
