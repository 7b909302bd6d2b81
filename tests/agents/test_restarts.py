"""Errors, restarts, giving up, and roles that cannot start, with workers and time that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from hfs_providers.agents import AgentConfig, ContractError, Role, Supervisor
from hfs_providers.agents.bridge import WorkerDiedError
from tests.agents.fleet import FakeLink, Fleet, one, run, settle, supervised
from tests.agents.workers import item


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
