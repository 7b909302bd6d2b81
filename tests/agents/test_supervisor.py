"""Supervision, with workers and time that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from hfs_providers.agents import AgentConfig, ContractError, Role, Supervisor
from hfs_providers.agents.bridge import WorkerDiedError
from tests.agents.fleet import FakeLink, Fleet, run, settle, supervised
from tests.agents.workers import item


def one(body: Any, **options: Any) -> None:
    supervised({"executor": 1}, body, **options)


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


class TestErrors:
    def test_degrade_an_agent_at_the_third_and_restart_it_at_the_fifth(self) -> None:
        async def body(fleet: Fleet) -> None:
            await fleet.fail(2)
            assert fleet.supervisor.snapshot()[0].health.is_healthy
            await fleet.fail(1)
            assert not fleet.supervisor.snapshot()[0].health.is_healthy
            await fleet.fail(2)
            kinds = await fleet.kinds()
            assert kinds.count("agent_error_recorded") == 5
            assert kinds.count("agent_health_degraded") == 1
            assert kinds[-1] == "agent_restarted"
            assert [link.pid for link in fleet.links] == [100, 101]
            assert fleet.links[0].calls[-1] == "shutdown"
            work = fleet.give()
            await settle()
            fleet.link.answer()
            assert (await work).success

        one(body)

    def test_are_forgotten_after_a_success(self) -> None:
        async def body(fleet: Fleet) -> None:
            for _ in range(3):
                await fleet.fail(4)
                work = fleet.give()
                await settle()
                fleet.link.answer()
                await work
            assert len(fleet.links) == 1
            assert fleet.supervisor.snapshot()[0].health.error_count == 0

        one(body)

    def test_do_not_come_from_what_was_cancelled(self) -> None:
        async def body(fleet: Fleet) -> None:
            for number in range(6):
                work = fleet.give(number)
                await settle()
                work.cancel()
                await settle()
            assert fleet.supervisor.snapshot()[0].health.error_count == 0

        one(body)

    def test_let_the_work_that_is_being_done_come_to_its_end_before_a_restart(self) -> None:
        async def body(fleet: Fleet) -> None:
            first = fleet.link
            long = fleet.give("long")
            await fleet.fail(5)
            late = fleet.give("late")
            await settle()
            # It takes no more work, and keeps what it has.
            assert list(first.items) == ["long"]
            assert not first.ended.done()
            first.answer("long")
            assert (await long).success
            await settle()
            assert fleet.link is not first
            fleet.link.answer("late")
            assert (await late).success

        one(body)


class TestRestarts:
    def test_are_at_most_three_in_a_minute_and_then_it_is_given_up_and_said_so(self) -> None:
        async def body(fleet: Fleet) -> None:
            for _ in range(4):
                fleet.link.die("exited with code 7")
                await settle()
            assert len(fleet.links) == 4
            last = (await fleet.events())[-1]
            assert last.kind == "agent_unavailable"
            assert "given up after 3 restarts" in str(last.message)
            assert "exited with code 7" in str(last.message)
            result = await fleet.give()
            assert "the executor is unavailable: given up" in str(result.error)

        one(body)

    def test_are_more_where_they_take_longer(self) -> None:
        async def body(fleet: Fleet) -> None:
            for _ in range(8):
                fleet.link.die()
                await fleet.time.pass_by(21)
            assert len(fleet.links) == 9

        one(body)

    def test_are_tried_again_after_a_rest_when_there_is_work(self) -> None:
        async def body(fleet: Fleet) -> None:
            for _ in range(4):
                fleet.link.die()
                await settle()
            assert not (await fleet.give("too soon")).success
            await fleet.time.pass_by(61)
            work = fleet.give("later")
            await settle()
            assert len(fleet.links) == 5
            fleet.link.answer("later")
            assert (await work).success

        one(body)

    def test_that_fail_too_count_as_well(self) -> None:
        async def body(fleet: Fleet) -> None:
            fleet.connecting = lambda link: link.die("exited with code 3")
            work = fleet.give()
            await settle()
            fleet.link.die()
            assert not (await work).success
            await settle()
            assert len(fleet.links) == 4
            assert "exited with code 3" in str(fleet.supervisor.unavailable("executor"))

        one(body)

    def test_of_one_worker_leave_the_work_to_the_others_of_its_role(self) -> None:
        async def body(fleet: Fleet) -> None:
            broken, good = fleet.links
            fleet.connecting = lambda link: link.die()
            broken.die()
            await settle()
            assert fleet.supervisor.unavailable("executor") is None
            work = fleet.give()
            await settle()
            good.answer()
            assert (await work).success

        supervised({"executor": 2}, body)


class TestARoleThatCannotStart:
    def test_is_unavailable_with_the_reason_and_the_others_work(self) -> None:
        async def main() -> None:
            fleet = Fleet({"executor": 1, "reviewer": 1})

            def sessions(role: Role, params: Mapping[str, Any]) -> Any:
                if role == "reviewer":
                    return {"session_id": None, "state": {"state": "unavailable", "reason": "no key at all"}}
                return {"session_id": "x"}

            fleet.sessions = sessions
            async with fleet.supervisor as supervisor:
                assert supervisor.unavailable("reviewer") == "no key at all"
                assert (await fleet.give("1", "reviewer")).error == "the reviewer is unavailable: no key at all"
                states = {shot.role: shot.health.state.state for shot in supervisor.snapshot()}
                assert states == {"executor": "idle", "reviewer": "unavailable"}
                work = fleet.give()
                await settle()
                fleet.links[0].answer()
                assert (await work).success

        run(main())

    def test_because_its_command_is_not_there_is_unavailable_too(self) -> None:
        async def main() -> None:
            async def connect(role: Role, notified: Any) -> FakeLink:
                raise FileNotFoundError(2, "No such file or directory")

            async with Supervisor({"executor": 1}, connect=connect) as supervisor:
                assert "No such file or directory" in str(supervisor.unavailable("executor"))
                assert not (await supervisor.work("executor", item())).success

        run(main())

    def test_because_it_never_answers_is_unavailable_after_a_bounded_time(self) -> None:
        async def main() -> None:
            fleet = Fleet({"executor": 1})

            async def call(method: str, params: Mapping[str, Any]) -> Any:
                await asyncio.get_running_loop().create_future()

            fleet.connecting = lambda link: setattr(link, "call", call)
            starting = asyncio.create_task(fleet.supervisor.start())
            await fleet.time.pass_by(61)
            await starting
            assert fleet.supervisor.unavailable("executor") == "it did not start within 60 s"
            assert fleet.link.ended.done()
            await fleet.supervisor.stop()

        run(main())

    def test_because_each_start_fails_slowly_is_given_up_too(self) -> None:
        async def main() -> None:
            fleet = Fleet({"executor": 1})

            async def call(method: str, params: Mapping[str, Any]) -> Any:
                await fleet.time.sleep(50)
                raise WorkerDiedError(1, "exited with code 3")

            fleet.connecting = lambda link: setattr(link, "call", call)
            starting = asyncio.create_task(fleet.supervisor.start())
            await fleet.time.pass_by(400)
            await starting
            assert len(fleet.links) == 4
            assert "given up after 3 restarts" in str(fleet.supervisor.unavailable("executor"))
            await fleet.supervisor.stop()

        run(main())

    def test_of_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ContractError, match="poet"):
            Supervisor({"poet": 1})  # type: ignore[dict-item]  # the mistake that is tested

    def test_gets_the_config_of_its_role(self) -> None:
        async def main() -> None:
            fleet = Fleet({"executor": 1}, configs={"executor": AgentConfig(tier="fast")})
            configs: list[Any] = []

            def sessions(role: Role, params: Mapping[str, Any]) -> Any:
                configs.append(params["config"])
                return {"session_id": "x"}

            fleet.sessions = sessions
            async with fleet.supervisor:
                assert configs == [{"tier": "fast"}]

        run(main())


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
