"""Texts lie in the object store once; what travels are places."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.parcels import CHUNK, Chunk, Texts, picked
from workers.protocol import Message, Request


def request(number: int) -> Request:
    return Request("reward", (Message("user", f"question {number} " * 50),), (f"answer {number} " * 50,))


@given(st.lists(st.lists(st.integers(0, 700), max_size=60), max_size=5), st.data())
def test_a_parcel_brings_the_requests_in_their_order(numbers: list[list[int]], data: st.DataObject) -> None:
    known = {number: request(number) for stream in numbers for number in stream}
    store: list[Chunk] = []

    def put(chunk: Chunk) -> int:
        store.append(chunk)
        return len(store) - 1

    texts = Texts([[known[number] for number in stream] for stream in numbers], put)
    assert sorted(len(one.responses[0]) for chunk in store for one in chunk) == sorted(
        len(one.responses[0]) for one in known.values()
    ), "every text once"
    asked = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=20)) if known else []
    parcel = texts.parcel(known[number] for number in asked)
    assert picked(parcel.picks, [store[chunk] for chunk in parcel.chunks]) == tuple(known[number] for number in asked)
    assert len(set(parcel.chunks)) == len(parcel.chunks)


def test_a_shard_of_neighbours_needs_few_chunks_and_no_text() -> None:
    requests = [request(number) for number in range(4 * CHUNK)]
    texts = Texts([requests, requests[::2]], len)
    parcel = texts.parcel(requests[CHUNK - 8 : CHUNK + 8])
    assert len(parcel.chunks) == 2
    assert len(pickle.dumps(parcel)) < len(requests[0].responses[0])
