"""Micro-batches shared out over threads: the same numbers as one after the other, and nothing left behind."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.compute.workers import Replicas, each
from landscape.eigen import moments, spectral_density
from landscape.nets.dropout import MCDropout
from landscape.objective import CurvatureOperator, Inference, Objective, operators
from landscape.objective.operators import Kind
from landscape.store.protocol import Protocol

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_one_core_each() -> None:
    threads = list(each(lambda item: (item, torch.get_num_threads(), threading.get_ident()), range(7), CPU))
    assert [item for item, _, _ in threads] == list(range(7))
    # The odd one out gets all cores.
    assert [number for _, number, _ in threads] == [1] * 6 + [2]
    assert threading.get_ident() not in {thread for _, _, thread in threads[:6]}


def test_with_one_core_each_the_odd_one_out_gets_no_more() -> None:
    found = list(each(lambda item: (item, torch.get_num_threads()), range(3), CPU, one_core=3))
    assert found == [(0, 1), (1, 1), (2, 1)]


def test_the_callers_threads_stay_as_they_are() -> None:
    list(each(lambda item: item, range(4), CPU))
    found: list[int] = []
    late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert [torch.get_num_threads(), *found] == [2, 2]


def test_an_error_reaches_the_caller_and_the_next_call_works() -> None:
    def fail(item: int) -> int:
        if item == 1:
            raise ValueError("item 1")
        return item

    with pytest.raises(ValueError, match="item 1"):
        list(each(fail, range(100), CPU))
    assert list(each(abs, range(8), CPU)) == list(range(8))


def test_after_an_error_nothing_goes_on_running() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            begun.wait(10)
            raise ValueError("item 0")
        begun.set()
        time.sleep(0.3)
        ended.set()

    with pytest.raises(ValueError, match="item 0"):
        list(each(work, range(2), CPU))
    assert ended.is_set()


def test_few_at_once_are_done_one_after_the_other_on_one_core_all_the_same() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return torch.get_num_threads()

    assert list(each(work, range(6), CPU, at_once=1)) == [1] * 6
    assert most == 1


def test_replicas_share_tensors_and_are_used_by_one_thread() -> None:
    network = small_net()
    replicas = Replicas(network)
    with replicas.one() as first, replicas.one() as second:
        assert first is network
        assert second is not network
        pairs = zip(first.state_dict(keep_vars=True).values(), second.state_dict(keep_vars=True).values(), strict=True)
        assert all(one is other for one, other in pairs)
    with replicas.one() as again:
        assert again in (first, second)


class Forgetful(nn.Module):
    """Keeps its input on itself for a while, as careless networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        features = self.net[:6](images)
        return self.net[6:](features) + self.images.mean(dim=(1, 2, 3))[:, None]


def dropout_net() -> nn.Module:
    net = Forgetful()
    net.net.insert(5, MCDropout(0.3))
    return net


@pytest.mark.parametrize("memory", [None, "two graphs"])
def test_products_and_values_do_not_depend_on_threads(memory: str | None) -> None:
    protocol = Protocol(dtype="float64", dropout="fixed")
    data = small_images(count=96)
    objective = Objective(dropout_net(), data, protocol=protocol, micro_batch=8)
    if memory is not None:
        objective.memory = 2 * CurvatureOperator(objective).plan.bytes_each
    vectors = torch.randn(objective.size, 2, generator=generator(0), dtype=torch.float64)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        operator = CurvatureOperator(objective)
        inference = Inference(objective)
        outputs = inference.all_outputs(inference.ranges(0, 96))
        found.append((operator(vectors), objective.value().loss, outputs))
    assert operator.plan.kept == (12 if memory is None else 2)
    (product, value, outputs), (shared_product, shared_value, shared_outputs) = found
    torch.testing.assert_close(shared_product, product, rtol=1e-12, atol=1e-12)
    assert shared_value == pytest.approx(value, rel=1e-14)
    torch.testing.assert_close(shared_outputs, outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_bits_do_not_depend_on_memory(kind: Kind) -> None:
    objective = Objective(dropout_net(), small_images(count=96), protocol=Protocol(dropout="fixed"), micro_batch=8)
    each_graph = CurvatureOperator(objective, kind).plan.bytes_each
    vectors = torch.randn(objective.size, 2, generator=generator(0))
    products = []
    # All graphs kept; three (one of them beside the pairs that share the cores); fewer than there are cores; none.
    for graphs, kept in ((100, 12), (3, 3), (1, 1), (0, 0)):
        operator = CurvatureOperator(objective.within(graphs * each_graph), kind)
        products.append(operator(vectors))
        assert operator.plan.kept == kept
    assert all(torch.equal(product, products[0]) for product in products)


def test_no_core_waits_for_memory_that_only_kept_graphs_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no budget at all the graphs at work are as many as the cores; where these would not fit, one by one."""
    objective = Objective(dropout_net(), small_images(count=96), protocol=Protocol(dropout="fixed"), micro_batch=8)
    operator = CurvatureOperator(objective.within(0))
    operator.together()
    assert operator._at_once() == 2
    monkeypatch.setattr(operators, "available_memory", lambda device: 1)
    assert operator._at_once() == 0


def test_density_and_trace_share_graphs_and_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(dropout_net(), small_images(count=48), protocol=Protocol(dropout="fixed"), micro_batch=8)
    one_graph = CurvatureOperator(objective).plan.bytes_each
    built: list[int] = []
    build = CurvatureOperator._graph
    monkeypatch.setattr(CurvatureOperator, "_graph", lambda self, place: built.append(place) or build(self, place))
    found = {}
    assert CurvatureOperator(objective).together() == 1
    assert CurvatureOperator(objective.within(one_graph)).together() == 2
    for memory, width in ((None, 1), (one_graph, 2), (0, 1)):
        operator = CurvatureOperator(objective.within(objective.memory if memory is None else memory))
        # These graphs are hardly larger than vectors: how many fit beside the rows of a search is another question.
        monkeypatch.setattr(CurvatureOperator, "together", lambda self, rows=0, width=width: width)
        built.clear()
        density = spectral_density(operator, probes=3, steps=4)
        moment = moments(operator, products=12, method="hutch++")
        assert operator.products == density.products + moment.trace.products == 24
        found[memory] = (density.nodes, density.weights, moment.trace, moment.squares, len(built))
    kept, together, alone = found.values()
    for one in (together, alone):
        assert all(np.array_equal(*pair) for pair in zip(kept[:2], one[:2], strict=True))
        assert kept[2:4] == one[2:4]
    # One is built to be measured. Of six micro-batches one is kept, the others are built once for two vectors, but for
    # the first probe's.
    assert together[4] == 1 + 1 + 5 * (4 + 4 + 6)
    assert alone[4] == 1 + 6 * 24
