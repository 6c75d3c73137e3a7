"""A network asked for several windows at a time on a processor, in a thread for each.

Two threads that share each layer of a network wait for each other after every one of its layers, and both wait for
memory at the same time. Threads that each have windows of their own wait for nobody, and multiply while others read.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import torch

__all__ = ["answers", "unheard"]

Ask = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


def answers(network: torch.nn.Module, given: Iterable[torch.Tensor], ask: Ask, count: int) -> Generator[torch.Tensor]:
    """Yield what `ask` makes of a network and each of `given`, in their order, with `count` of them under way.

    The threads of the processor are shared out among them. Close it when it is left early.
    """
    networks = [network, *filter(None, (_twin(network) for _ in range(count - 1)))]
    if len(networks) < count or count == 1:
        yield from (ask(network, windows) for windows in given)
        return
    free: SimpleQueue[torch.nn.Module] = SimpleQueue()
    for one in networks:
        free.put(one)

    def work(windows: torch.Tensor) -> torch.Tensor:
        one = free.get()
        try:
            with torch.inference_mode():
                return ask(one, windows)
        finally:
            free.put(one)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread, that puts the answers together
    pool = ThreadPoolExecutor(count, "lane", torch.set_num_threads, (max(1, threads // count),))
    waiting: deque[Future[torch.Tensor]] = deque()
    try:
        for windows in given:
            waiting.append(pool.submit(work, windows))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def unheard(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network of the same weights that nobody listens to; the network itself where that cannot be had."""
    if (one := _twin(network)) is None:
        return network
    for layer in one.modules():
        layer._forward_hooks.clear()
    return one


def _twin(network: torch.nn.Module) -> torch.nn.Module | None:
    """Return a network of the same weights that keeps whatever else its layers note to itself; None if there is none.

    Who listens to a layer listens to that of the twin.
    """
    weights = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    try:
        return copy.deepcopy(network, weights)
    except Exception:  # noqa: BLE001 - the edge to the network: it may hold what cannot be copied, as it likes
        return None
