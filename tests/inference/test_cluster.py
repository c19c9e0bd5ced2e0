"""How cases are followed on a cluster, with futures that go through the states of dask's at moments of our choice."""

import pytest

from voxseg.inference import cluster
from voxseg.inference.cluster import Cluster, LostError

pytest.importorskip("distributed", reason="needs the extra 'cluster'")


class Future:
    """As dask's: tells of its end once, and may be lost by the time that somebody looks."""

    def __init__(self, key, *states):
        self.key, self.states = key, list(states)

    @property
    def status(self):
        return self.states[0]

    def add_done_callback(self, tell):
        tell(self)

    def release(self):
        self.released = True

    def result(self):
        assert self.status == "finished"
        return f"result of {self.key[-1]}"


class Client:
    """Hands out such futures; each time that workers are counted they are one state further."""

    status = "running"

    def __init__(self, *states):
        self.states, self.cancelled = states, []

    def map(self, work, *arguments, key, pure):
        self.futures = [Future(one, *states) for one, states in zip(key, self.states, strict=True)]
        return self.futures

    def scheduler_info(self, n_workers):
        for future in self.futures:
            if len(future.states) > 1:
                future.states.pop(0)
        return {"workers": {"one": {}}}

    def subscribe_topic(self, topic, handler):
        pass

    def unsubscribe_topic(self, topic):
        pass

    def cancel(self, futures, asynchronous):
        self.cancelled += futures


class Watcher:
    def __init__(self):
        self.ends = []

    def ended(self, index, result):
        self.ends.append((index, result))


def test_a_result_that_is_lost_with_its_worker_is_waited_for(monkeypatch):
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.001)
    client = Client(
        ["finished"], ["finished", "lost", "lost", "pending", "finished"], ["finished", "lost", "cancelled"]
    )
    watcher = Watcher()
    Cluster("here", client, True, None, None).run(lambda item, progress: item, ["a", "b", "c"], watcher)
    assert [index for index, _ in watcher.ends] == [0, 2, 1]
    results = dict(watcher.ends)
    assert (results[0], results[1]) == ("result of 0", "result of 1")
    assert isinstance(results[2], LostError)
    assert client.cancelled == []
    assert [future.released for future in client.futures] == [True] * 3
