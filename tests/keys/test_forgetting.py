"""A model that is not asked for any more leaves nothing behind."""

from __future__ import annotations

from hfs_providers.authoring import Credential, Limits, Secret
from hfs_providers.keys import KeyPool


def test_a_model_is_forgotten_unless_its_calls_are_in_flight() -> None:
    keys = [Credential(f"acme#{number}", Secret(f"key-{number}")) for number in (1, 2)]
    pool = KeyPool("acme", keys, limits=lambda model, key: Limits(rpm=1))
    for lease in [pool.acquire("kept"), pool.acquire("gone"), pool.acquire("gone")]:
        lease.rate_limited(20.0) if lease.model_id == "gone" else lease.commit(5)
    open_lease = pool.acquire("open")
    pool.learn("gone", "acme#1", Limits(rpd=3))
    for model in ("gone", "open", "never asked"):
        pool.forget(model)
    open_lease.commit(1)
    assert [key.state for key in pool.statuses("gone")] == ["ready", "ready"]
    assert sorted(key.state for key in pool.statuses("kept")) == ["limited", "ready"]
    assert sorted(key.state for key in pool.statuses("open")) == ["limited", "ready"]
    assert pool.counts("gone").in_flight == 0
    pool.acquire("gone").release()


def test_the_limits_that_answers_showed_are_forgotten_for_that_model_alone() -> None:
    pool = KeyPool("acme", [Credential("acme#1", Secret("key-1"))])
    for model in ("gone", "kept"):
        pool.learn(model, "acme#1", Limits(rpm=1))
    pool.forget("gone")
    for model in ("gone", "kept"):
        pool.acquire(model).commit(1)
    assert [pool.statuses(model)[0].state for model in ("gone", "kept")] == ["ready", "limited"]
