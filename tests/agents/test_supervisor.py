"""Supervision, with workers and time that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from hfs_providers.agents import ContractError, Supervisor
from tests.agents.fleet import Fleet, one, settle, supervised
from tests.agents.workers import item


class TestWork:
    def test_is_answered_with_the_worker_s_result(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give(priority=7)
            await settle()
            assert fleet.seen[0]["priority"] == 7
            fleet.link.answer(data={"made": "it"})
            assert (await work).data == {"made": "it"}
            assert (await fleet.kinds())[-1] == "agent_completed"

        one(body)

    def test_is_never_done_on_more_than_four_items_at_once(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number, role) for number, role in enumerate(("executor", "reviewer") * 5)]
            for expected in (4, 4, 2):
                await settle()
                running = [(link, name) for link in fleet.links for name in link.items]
                assert len(running) == expected
                for link, name in running:
                    link.answer(name)
            assert all([(await work).success for work in works])

        supervised({"executor": 2, "reviewer": 1}, body)

    @pytest.mark.parametrize("most", [1, 7])
    def test_is_done_on_as_many_items_at_once_as_the_supervisor_is_told(self, most: int) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(10)]
            await settle()
            assert len(fleet.link.items) == most
            while fleet.link.items:
                fleet.link.answer(next(iter(fleet.link.items)))
                await settle()
            await asyncio.gather(*works)

        one(body, max_concurrent_agents=most)

    def test_is_done_on_one_item_at_once_at_least(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Supervisor(max_concurrent_agents=0)

    def test_goes_to_the_worker_that_has_the_least(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(4)]
            await settle()
            assert [len(link.items) for link in fleet.links] == [1, 1, 1, 1]
            for link in fleet.links:
                link.answer(next(iter(link.items)))
            await asyncio.gather(*works)

        supervised({"executor": 4}, body)

    def test_of_one_role_does_not_keep_the_others_waiting(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(50)]
            works.append(fleet.give("review", "reviewer", priority=0))
            await settle()
            executor, reviewer = fleet.links
            executor.answer(next(iter(executor.items)))
            await settle()
            assert list(reviewer.items) == ["review"]
            for work in works:
                work.cancel()

        supervised({"executor": 1, "reviewer": 1}, body)

    @pytest.mark.parametrize("wrong", [item(priority=11), {}, item(unknown=1)])
    def test_that_breaks_the_contract_is_refused(self, wrong: Mapping[str, Any]) -> None:
        async def body(fleet: Fleet) -> None:
            with pytest.raises(ContractError):
                await fleet.supervisor.work("executor", wrong)

        one(body)

    def test_for_a_role_that_is_not_there_is_refused(self) -> None:
        async def body(fleet: Fleet) -> None:
            with pytest.raises(ContractError, match="reviewer: this supervisor has executor"):
                await fleet.supervisor.work("reviewer", item())

        one(body)

    def test_with_an_id_that_is_pending_is_refused_until_it_is_done(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give()
            await settle()
            with pytest.raises(ContractError, match="pending"):
                await fleet.supervisor.work("executor", item())
            fleet.link.answer()
            await work
            again = fleet.give()
            await settle()
            fleet.link.answer()
            assert (await again).success

        one(body)

    def test_whose_caller_has_gone_is_cancelled_in_the_worker_and_its_place_is_free(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(5)]
            await settle()
            works[0].cancel()
            await settle()
            assert "cancel" in fleet.link.calls
            assert set(fleet.link.items) == {"1", "2", "3", "4"}
            for name in list(fleet.link.items):
                fleet.link.answer(name)
            assert all([(await work).success for work in works[1:]])

        one(body)

    @pytest.mark.parametrize(
        "answer",
        [{}, None, [], {"item_id": "1"}, {"item_id": "other", "success": True}, {"item_id": "1", "success": "yes"}],
    )
    def test_that_is_answered_with_what_is_no_result_fails(self, answer: object) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give()
            await settle()
            fleet.link.items["1"].set_result(answer)
            result = await work
            assert not result.success
            assert "not a valid WorkResult" in str(result.error)
            assert fleet.supervisor.snapshot()[0].health.error_count == 1

        one(body)


class TestTimeouts:
    def test_cancel_the_item_in_the_worker(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give(timeout=20)
            await fleet.time.pass_by(19.9)
            assert "cancel" not in fleet.link.calls
            await fleet.time.pass_by(0.2)
            assert (await work).error == "timed out after 20 s"
            assert not fleet.link.ended.done()

        one(body)

    def test_are_sixty_seconds_by_default(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give()
            fleet.link.notified("heartbeat", {})
            await fleet.time.pass_by(61)
            assert (await work).error == "timed out after 60 s"

        one(body)

    def test_kill_a_worker_that_does_not_even_cancel(self) -> None:
        async def body(fleet: Fleet) -> None:
            stuck = fleet.link
            stuck.deaf = True
            work, other = fleet.give(timeout=20), fleet.give("other", idempotent=True)
            await fleet.time.pass_by(20.1)
            assert not stuck.ended.done()
            await fleet.time.pass_by(5)
            assert (await work).error == "timed out after 20 s"
            assert stuck.ended.result() == "was killed by signal 9 (SIGKILL)"
            # What it worked on besides is done by its successor.
            await settle()
            assert fleet.link is not stuck
            fleet.link.answer("other")
            assert (await other).success

        one(body)


class TestTheDeathOfAWorker:
    def test_fails_its_work_and_says_how_it_died(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give()
            await settle()
            fleet.link.kill()
            assert "was killed by signal 9" in str((await work).error)

        one(body)

    def test_lets_idempotent_work_be_done_once_more_and_no_more(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give(idempotent=True)
            for _ in range(2):
                await settle()
                assert list(fleet.link.items) == ["1"]
                fleet.link.kill()
            assert "worker died" in str((await work).error)
            assert [seen["id"] for seen in fleet.seen] == ["1", "1"]

        one(body)

    def test_is_also_a_cancellation_that_nobody_here_asked_for(self) -> None:
        async def body(fleet: Fleet) -> None:
            ended = fleet.link
            work, again = fleet.give(), fleet.give("again", idempotent=True)
            await settle()
            # What a worker does on a SIGTERM from outside.
            for name in ("1", "again"):
                ended.answer(name, error="cancelled")
            assert "was ended from outside" in str((await work).error)
            await settle()
            assert fleet.link is not ended
            fleet.link.answer("again")
            assert (await again).success

        one(body)

    def test_is_one_error_and_one_restart_however_many_items_it_had(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(4)]
            await settle()
            fleet.link.kill()
            assert not any([(await work).success for work in works])
            await settle()
            kinds = await fleet.kinds()
            assert (kinds.count("agent_error_recorded"), kinds.count("agent_restarted")) == (1, 1)
            snapshot = fleet.supervisor.snapshot()[0]
            assert (snapshot.pid, snapshot.health.is_healthy) == (101, True)
            assert snapshot.health.last_restart is not None

        one(body)

    def test_is_also_its_silence(self) -> None:
        async def body(fleet: Fleet) -> None:
            silent = fleet.link
            for _ in range(3):
                await fleet.time.pass_by(60)
                silent.notified("heartbeat", {})
            await fleet.time.pass_by(89)
            assert not silent.ended.done()
            await fleet.time.pass_by(2)
            assert silent.ended.done()
            assert "no sign of life for 90 s" in [event.message for event in await fleet.events()]
            assert fleet.link is not silent

        one(body)


class TestStopping:
    def test_answers_everything_and_ends_the_workers_first(self) -> None:
        async def body(fleet: Fleet) -> None:
            works = [fleet.give(number) for number in range(10)]
            await settle()
            await fleet.supervisor.stop()
            assert [(await work).error for work in works] == ["cancelled"] * 10
            assert all(link.ended.done() for link in fleet.links)
            kinds = [event.kind async for event in fleet.subscription]
            assert kinds[-2:] == ["agent_stopped", "supervisor_stopped"]

        one(body)

    def test_may_be_done_twice_and_then_nothing_is_done_any_more(self) -> None:
        async def body(fleet: Fleet) -> None:
            await asyncio.gather(fleet.supervisor.stop(), fleet.supervisor.stop())
            assert (await fleet.give()).error == "cancelled"
            assert len(fleet.links) == 1

        one(body)

    def test_during_a_restart_leaves_no_worker(self) -> None:
        async def body(fleet: Fleet) -> None:
            fleet.link.die()
            await asyncio.sleep(0)
            await fleet.supervisor.stop()
            assert all(link.ended.done() for link in fleet.links)

        one(body)


class TestSnapshots:
    def test_show_what_each_agent_does(self) -> None:
        async def body(fleet: Fleet) -> None:
            work = fleet.give("mine")
            await settle()
            shot = fleet.supervisor.snapshot()[0]
            assert (shot.agent, shot.pid, shot.working) == ("executor#1", 100, 1)
            assert shot.health.state.dump() == {"state": "active", "task": "mine"}
            fleet.link.answer("mine")
            await work
            assert fleet.supervisor.snapshot()[0].health.state.state == "completed"
            await fleet.fail(1)
            assert fleet.supervisor.snapshot()[0].health.state.dump() == {"state": "failed", "error": "it broke"}

        one(body)


def test_what_a_worker_tells_is_handed_on() -> None:
    async def body(fleet: Fleet) -> None:
        work = fleet.give()
        await settle()
        fleet.link.notified("progress", {"item_id": "1", "stage": "answered", "message": "by groq"})
        fleet.link.notified("heartbeat", {"at": "whatever"})
        fleet.link.notified("gossip", {"x": 1})
        told = (await fleet.events())[-2:]
        assert [(event.kind, event.item_id, event.message) for event in told] == [
            ("progress", "1", "answered: by groq"),
            ("heartbeat", None, None),
        ]
        fleet.link.answer()
        await work

    one(body)


def test_a_snapshot_has_the_success_rate_and_the_mean_duration() -> None:
    async def body(fleet: Fleet) -> None:
        before = fleet.supervisor.snapshot()[0].health
        assert (before.succeeded, before.failed, before.success_rate, before.mean_duration) == (0, 0, None, None)
        for error, duration in ((None, 1.0), ("it broke", 3.0), ("cancelled", 9.0)):
            work = fleet.give()
            await settle()
            if error == "cancelled":
                work.cancel()
            else:
                fleet.link.answer(error=error, duration=duration)
            await settle()
        after = fleet.supervisor.snapshot()[0].health
        assert (after.succeeded, after.failed, after.success_rate, after.mean_duration) == (1, 1, 0.5, 2.0)

    one(body)
