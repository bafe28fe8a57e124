"""Record the histories that `tests/workflows/test_replay.py` replays: `python -m tests.histories.record [DIRECTORY]`.

A committed history stays: released code made histories like it, and every later version must replay them. After a
change inside `workflow.patched`, record into another directory and add what is new under a new name.

To cover a new path, write a function that takes the engine through it, keep the history under a name, and add the
function to `TAKES`.
"""

import asyncio
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from everhook.circuit.machine import CircuitPolicy, CircuitState
from everhook.contracts import (
    AttemptOutcome,
    DeadLetterReason,
    DeliveryMode,
    DeliveryStatus,
    HandlerResult,
    OperatorAction,
    PreviousAttempt,
    PulledState,
    ReconcileResult,
    ReleaseInput,
    ReplayProgress,
    ScheduledMessageInput,
    TaskQueue,
)
from everhook.delivery.policy import DeliveryPolicy
from everhook.ids import Kind, erasure_workflow_id, new_gid, replay_workflow_id
from everhook.redelivery.starts import start_replay
from everhook.tenants.erasure import start_erasure
from tests.workflows.engine import (
    DELIVERED,
    FAILED,
    PARKED,
    REJECTED,
    UNSENDABLE,
    Engine,
    Script,
    run_id,
    running_engine,
    time_skipping_server,
    unrecorded,
    until_at_rest,
)
from workflows.scheduled import ScheduledMessageWorkflow
from workflows.upkeep import (
    EventsLoopWorkflow,
    EventsWorkflow,
    ReconcileLoopWorkflow,
    ReconcileWorkflow,
    RetentionWorkflow,
    SealReceiptsWorkflow,
)

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
POLICY = DeliveryPolicy(delays=(timedelta(seconds=1), timedelta(minutes=5)))
NOTE = OperatorAction("ann", "the endpoint is mended")


class Album:
    """Saves histories as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def keep(self, name: str, handle: WorkflowHandle[Any, Any]) -> None:
        """Save the history once no task is under way: the replayer waits for ever for the end of a task. Stack traces
        name no directory of this machine."""
        history = await until_at_rest(handle)
        written = history.to_json().replace(f"{REPOSITORY}/", "")
        (self._directory / f"{name}.json").write_text(written + "\n")


async def record(directory: Path) -> None:
    album = Album(directory)
    async with time_skipping_server() as env:
        for take in TAKES:
            async with running_engine(env) as engine:
                await take(engine, album)


async def healthy(engine: Engine, album: Album) -> None:
    """Delivered by the workflow's first attempt; and delivered before the workflow started."""
    handle = await engine.start()
    await engine.result(handle)
    await album.keep("delivery-healthy", handle)
    handle = await engine.start(engine.order_after(named(DELIVERED)), first=True)
    await engine.result(handle)
    await album.keep("delivery-settled-before", handle)


async def failed_before(engine: Engine, album: Album) -> None:
    """The first attempt failed before the workflow started: retried until delivered, retried at once on the operator's
    signal that came with the start, and a dead letter because no other attempt follows."""
    due = await engine.now() + timedelta(minutes=20)
    engine.fakes.script(FAILED, DELIVERED)
    handle = await engine.start(engine.order_after(named(FAILED), due, policy=POLICY))
    await engine.result(handle)
    await album.keep("delivery-failed-before", handle)

    input = engine.input(policy=POLICY)
    due = await engine.now() + timedelta(minutes=20)
    input = replace(input, previous=PreviousAttempt(unrecorded(FAILED, input), due))
    handle = await engine.start(input, signal="attempt_now")
    await engine.result(handle)
    await album.keep("delivery-failed-before-attempt-now", handle)

    handle = await engine.start(engine.order_after(named(UNSENDABLE)))
    await engine.until_dead(handle)
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-unsendable-before", handle)


async def parked_before(engine: Engine, album: Album) -> None:
    """Parked before the workflow started: released, parked again past the window, discarded; and given up at once."""
    parked_since = await engine.now() - timedelta(minutes=30)
    engine.fakes.script(PARKED)
    input = engine.input(parked_since=parked_since, policy=replace(POLICY, max_window=timedelta(hours=1)))
    handle = await engine.start(input, signal="release", note=ReleaseInput())
    await engine.until_parked(handle)
    await engine.skip(timedelta(minutes=45))
    await engine.until_dead(handle)
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-parked-before", handle)

    note = ReleaseInput(DeadLetterReason.ENDPOINT_DELETED)
    handle = await engine.start(engine.input(parked_since=parked_since), signal="release", note=note)
    await engine.until_dead(handle)
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-parked-before-given-up", handle)


async def parked_for_long(engine: Engine, album: Album) -> None:
    """Parked by a pause: checked less and less often, then released and delivered."""
    engine.fakes.script(PARKED, PARKED, PARKED, PARKED, DELIVERED)
    handle = await engine.start(engine.input(park_check=timedelta(minutes=10)))
    await engine.skip(timedelta(minutes=90))
    await engine.until_parked(handle)
    await handle.signal("release", ReleaseInput())
    await engine.result(handle)
    await album.keep("delivery-parked-for-long", handle)


async def long_way(engine: Engine, album: Album) -> None:
    """Retried, parked, dead-lettered, replayed, parked too long, replayed on the limited queue."""
    input = engine.input(policy=POLICY, park_check=timedelta(minutes=1))
    unkept = unrecorded(FAILED, input)
    engine.fakes.script(unkept, FAILED, PARKED, PARKED, PARKED, FAILED, PARKED)
    engine.fakes.inputs[input.delivery_gid] = replace(input, policy=replace(POLICY, max_window=timedelta(minutes=2)))
    handle = await engine.start(input)
    await engine.until_retrying(handle, 2)
    await handle.signal("attempt_now")
    await engine.until_retrying(handle, 3)
    await engine.skip(timedelta(minutes=8, seconds=57))
    await engine.until_parked(handle)
    await handle.signal("release", ReleaseInput())
    await engine.until_dead(handle)
    runs = [await run_id(handle)]
    await handle.signal("replay", NOTE)
    await engine.skip(timedelta(minutes=5))
    await engine.until_dead(handle, round_=2)
    runs.append(await run_id(handle))
    engine.fakes.inputs[input.delivery_gid] = replace(input, policy=POLICY, rate_limit=5.0)
    engine.fakes.script(FAILED, DELIVERED)
    await handle.signal("replay")
    await engine.result(handle)
    runs.append(await run_id(handle))
    for number, run in enumerate(runs, 1):
        await album.keep(f"delivery-round-{number}", engine.client.get_workflow_handle(handle.id, run_id=run))


async def discarded(engine: Engine, album: Album) -> None:
    """Rejected at once, a discard after a replay; and one that retention discards."""
    engine.fakes.script(REJECTED)
    handle = await engine.start()
    await engine.until_dead(handle)
    gate = engine.fakes.hold("open_round")
    await handle.signal("replay", NOTE)
    await gate.entered.wait()
    await handle.signal("discard", NOTE)
    gate.open()
    await engine.result(handle)
    await album.keep("delivery-discarded", handle)
    handle = await engine.start()
    await engine.result(handle)
    await album.keep("delivery-retention", handle)


async def taken_up(engine: Engine, album: Album) -> None:
    """A dead letter whose workflow was lost, and a parked delivery that is given up."""
    handle = await engine.start(engine.dead_order(round=2, attempt=6))
    await engine.until_dead(handle, round_=2)
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-taken-up", handle)
    engine.fakes.script(PARKED)
    handle = await engine.start()
    await engine.until_parked(handle)
    await handle.signal("discard", NOTE)
    await engine.until(handle, DeliveryStatus.DISCARDED)
    await album.keep("delivery-parked-discarded", handle)


async def replayed(engine: Engine, album: Album) -> None:
    """The database opened the next round: of a dead letter, whose workflow is signalled twice, and of a delivery that
    waits for its next attempt."""
    engine.fakes.script(REJECTED, FAILED)
    # Real time passes too: after a delay of a second the delivery might be seen after its second attempt only.
    handle = await engine.start(engine.input(policy=DeliveryPolicy(delays=(timedelta(minutes=5),))))
    await engine.until_dead(handle)
    runs = [await run_id(handle)]
    await handle.signal("replay", OperatorAction(round=2))
    await engine.until_retrying(handle, 2)
    runs.append(await run_id(handle))
    await handle.signal("replay", OperatorAction(round=2))
    engine.fakes.script(DELIVERED)
    await handle.signal("replay", OperatorAction(round=3))
    await engine.result(handle)
    for number, run in enumerate(runs, 1):
        await album.keep(f"delivery-opened-{number}", engine.client.get_workflow_handle(handle.id, run_id=run))


async def endpoint_cycle(engine: Engine, album: Album) -> None:
    """Opened, relapsed, closed with a release, and every command."""
    moment = timedelta(seconds=3)
    policy = CircuitPolicy()
    engine.fakes.parked = 60
    endpoint = engine.endpoint(policy)
    await endpoint.report(failures=5)
    await endpoint.until_projected(state=CircuitState.OPEN)
    await engine.skip(timedelta(seconds=33) + moment)
    await endpoint.until_projected(state=CircuitState.HALF_OPEN)
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=CircuitState.OPEN, openings=2)
    await engine.skip(timedelta(seconds=66) + moment)
    await endpoint.until_projected(state=CircuitState.HALF_OPEN)
    await endpoint.report(succeeded=True)
    await engine.skip(timedelta(seconds=2.5))
    await endpoint.report(failures=2)
    await engine.skip(timedelta(seconds=20))
    for command in ("pause", "resume", "trip", "reset", "disable", "enable"):
        await endpoint.command(command)
    await engine.skip(timedelta(seconds=20))
    await album.keep("endpoint-cycle", endpoint.handle)


async def endpoint_released(engine: Engine, album: Album) -> None:
    """Resumed, with a release in each of several seconds."""
    engine.fakes.parked = 100
    endpoint = engine.endpoint(CircuitPolicy())
    for command in ("pause", "resume"):
        await endpoint.command(command)
    await engine.skip(timedelta(seconds=20))
    await album.keep("endpoint-released", endpoint.handle)


async def endpoint_settings(engine: Engine, album: Album) -> None:
    """Settings changed while the circuit is closed, open, and once more without an announcement."""
    endpoint = engine.endpoint(CircuitPolicy())
    await endpoint.report(failures=1)
    await endpoint.until_projected(failures=1)
    await endpoint.settings_changed(CircuitPolicy(failure_threshold=2, cooldown=timedelta(hours=1)))
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=CircuitState.OPEN)
    await endpoint.settings_changed(CircuitPolicy(failure_threshold=2))
    await endpoint.until_projected(version=3)
    engine.fakes.policies[endpoint.gid] = CircuitPolicy(failure_threshold=3)
    await endpoint.command("reset")
    await endpoint.report(failures=2)
    await endpoint.until_projected(state=CircuitState.CLOSED, failures=2)
    await album.keep("endpoint-settings", endpoint.handle)


async def endpoint_deleted(engine: Engine, album: Album) -> None:
    """Gone, given up, deleted; and one that the database does not know."""
    endpoint = engine.endpoint(CircuitPolicy())
    engine.fakes.parked = 600
    await endpoint.report(succeeded=True, gone=True)
    await endpoint.command("delete")
    await engine.result(endpoint.handle)
    await album.keep("endpoint-deleted", endpoint.handle)
    engine.fakes.circuit = None
    unknown = engine.endpoint(CircuitPolicy())
    await unknown.report()
    await engine.result(unknown.handle)
    await album.keep("endpoint-unknown", unknown.handle)


async def endpoint_stranded(engine: Engine, album: Album) -> None:
    """Parked deliveries under a closed circuit, released; then a pause during which they are counted."""
    moment = timedelta(seconds=3)
    endpoint = engine.endpoint(CircuitPolicy())
    await endpoint.report()
    await endpoint.until_released(1)
    await engine.skip(moment)
    engine.fakes.parked = 12
    await endpoint.report(stranded=True)
    await engine.skip(timedelta(seconds=2))
    await endpoint.until_released(3)
    await endpoint.command("pause")
    engine.fakes.parked = 1_234
    for counts, minutes in enumerate((1, 2, 4), 1):
        await engine.skip(timedelta(minutes=minutes) + moment)
        await engine.until_called("count_parked", counts)
    await endpoint.command("resume")
    await album.keep("endpoint-stranded", endpoint.handle)


async def reconcile(engine: Engine, album: Album) -> None:
    """One pass; and one that leaves enough work that four shares follow."""
    for name, more in (("reconcile", False), ("reconcile-shares", True)):
        engine.fakes.passes = Script(ReconcileResult(started=3, restarted=2, more=more))
        handle = await engine.client.start_workflow(ReconcileWorkflow.run, id=name, task_queue=TaskQueue.DELIVERIES)
        await engine.result_without_skipping(handle)
        await album.keep(name, handle)


async def events(engine: Engine, album: Album) -> None:
    handle = await engine.client.start_workflow(EventsWorkflow.run, id="events", task_queue=TaskQueue.DELIVERIES)
    await handle.result()
    await album.keep("events", handle)


async def pulled(engine: Engine, album: Album) -> None:
    """Guarded until it is acknowledged; and used up, replayed, and never taken."""
    waiting = PulledState(DeliveryStatus.AVAILABLE, check_at=await engine.now() + timedelta(hours=1))
    done = PulledState(DeliveryStatus.DELIVERED, attempts=2, last=named(DELIVERED))
    engine.fakes.pulls = Script(waiting, done)
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await engine.until(handle, DeliveryStatus.AVAILABLE, "a consumer")
    await engine.until_called("check_pulled", 1)
    await handle.signal("settled")
    await engine.result(handle)
    await album.keep("delivery-pulled", handle)

    dead = PulledState(DeliveryStatus.DEAD_LETTERED, attempts=3, reason=DeadLetterReason.EXHAUSTED, last=named(FAILED))
    engine.fakes.pulls = Script(dead, replace(dead, reason=DeadLetterReason.UNCLAIMED))
    handle = await engine.start(engine.input(mode=DeliveryMode.STREAM))
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    first_run = await run_id(handle)
    await handle.signal("replay", NOTE)
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED, round_=2)
    await album.keep("delivery-pulled-used-up", engine.client.get_workflow_handle(handle.id, run_id=first_run))
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-pulled-unclaimed", handle)


async def asked(engine: Engine, album: Album) -> None:
    """Reminded of, escalated and decided; and expired."""
    reminders = {"afterSeconds": 3_600, "everySeconds": 7_200, "max": 2}
    engine.fakes.task.ask(await engine.now(), reminders=reminders, escalation={"afterReminders": 1, "to": "dan"})
    handle = await engine.start(engine.input(mode=DeliveryMode.INBOX))
    await engine.until_called("check_task", 1)
    await engine.skip(timedelta(hours=4))
    await engine.until_called("check_task", 3)
    engine.fakes.task.end(DeliveryStatus.DELIVERED, outcome="approved")
    await handle.signal("settled")
    await engine.result_without_skipping(handle)
    await album.keep("delivery-asked", handle)

    engine.fakes.task.ended = None
    engine.fakes.task.ask(await engine.now())
    handle = await engine.start(engine.input(mode=DeliveryMode.INBOX))
    await engine.until_called("check_task", 5)
    await engine.skip(timedelta(hours=25))
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    await album.keep("delivery-asked-in-vain", handle)


async def handled(engine: Engine, album: Album) -> None:
    """Handled by Everhook itself: at two later times, in between parked, retried; and rejected."""
    due = await engine.now() + timedelta(hours=1)
    engine.fakes.handlings = Script(
        HandlerResult(due_at=due, step=0),
        HandlerResult(PARKED),
        HandlerResult(due_at=due + timedelta(hours=1), step=1),
        HandlerResult(named(FAILED)),
        HandlerResult(named(DELIVERED)),
    )
    handle = await engine.start(engine.input(mode=DeliveryMode.INTERNAL, policy=POLICY))
    await engine.until(handle, DeliveryStatus.SENDING, "its time")
    await engine.skip(timedelta(hours=1))
    await engine.until_parked(handle)
    await handle.signal("release", ReleaseInput())
    await engine.until(handle, DeliveryStatus.SENDING, "its time")
    await engine.result(handle)
    await album.keep("delivery-handled", handle)

    engine.fakes.handlings = Script(HandlerResult(named(REJECTED)))
    handle = await engine.start(engine.input(mode=DeliveryMode.INTERNAL, rate_limit=5.0))
    await engine.until_dead(handle)
    await handle.signal("discard", NOTE)
    await engine.result(handle)
    await album.keep("delivery-handled-rejected", handle)


async def loops(engine: Engine, album: Album) -> None:
    """Passes one after the other: of the reconciler one with shares and one that fails."""
    engine.fakes.passes = Script(
        ReconcileResult(started=1, more=True, every=timedelta(minutes=2)), ReconcileResult(every=timedelta(minutes=2))
    )
    run = ReconcileLoopWorkflow.run
    handle = await engine.client.start_workflow(run, id="reconcile-loop", task_queue=TaskQueue.DELIVERIES)
    await engine.passed(handle, "reconcile", 5, timedelta(minutes=2))
    engine.fakes.fail("reconcile", times=1)
    await engine.passed(handle, "reconcile", 7, timedelta(minutes=2))
    await album.keep("reconcile-loop", handle)
    looping = await engine.client.start_workflow(
        EventsLoopWorkflow.run, id="events-loop", task_queue=TaskQueue.DELIVERIES
    )
    await engine.passed(looping, "publish_events", 60, timedelta(seconds=5))
    await album.keep("events-loop", looping)


async def retention(engine: Engine, album: Album) -> None:
    handle = await engine.client.start_workflow(RetentionWorkflow.run, id="retention", task_queue=TaskQueue.DELIVERIES)
    await handle.result()
    await album.keep("retention", handle)


async def erasure(engine: Engine, album: Album) -> None:
    tenant_gid = new_gid(Kind.TENANT)
    await start_erasure(engine.client, tenant_gid, timedelta(minutes=2))
    await engine.until_called("end_tenant_workflows", 1)
    handle = engine.client.get_workflow_handle(erasure_workflow_id(tenant_gid))
    await engine.skip(timedelta(minutes=2))
    await handle.result()
    await album.keep("erase-tenant", handle)


async def seal_receipts(engine: Engine, album: Album) -> None:
    handle = await engine.client.start_workflow(
        SealReceiptsWorkflow.run, id="seal-receipts", task_queue=TaskQueue.DELIVERIES
    )
    await handle.result()
    await album.keep("seal-receipts", handle)


async def replayed_early(engine: Engine, album: Album) -> None:
    """A replay arrives while the check that dead-letters a pulled delivery is under way."""
    gate = engine.fakes.hold("check_pulled")
    engine.fakes.pulls = Script(
        PulledState(DeliveryStatus.DEAD_LETTERED, reason=DeadLetterReason.EXHAUSTED),
        PulledState(DeliveryStatus.DELIVERED, attempts=1),
    )
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await gate.entered.wait()
    await handle.signal("replay", NOTE)
    run = await run_id(handle)
    gate.open()
    await engine.result(handle)
    await album.keep("delivery-replayed-early", engine.client.get_workflow_handle(handle.id, run_id=run))


async def scheduled(engine: Engine, album: Album) -> None:
    """Started with a delay."""
    handle = await engine.client.start_workflow(
        ScheduledMessageWorkflow.run,
        ScheduledMessageInput("msg_01m83prhbfe23sdyzab24cmhby"),
        id="scheduled",
        task_queue=TaskQueue.DELIVERIES,
        start_delay=timedelta(hours=1),
    )
    await engine.skip(timedelta(hours=1))
    await handle.result()
    await album.keep("scheduled-message", handle)


def named(outcome: AttemptOutcome) -> AttemptOutcome:
    """The outcome of a recorded attempt."""
    return replace(outcome, attempt_gid=new_gid(Kind.ATTEMPT), duration_ms=31)


async def channel_replayed(engine: Engine, album: Album) -> None:
    """Replayed in two turns; and cancelled in Temporal."""
    engine.fakes.turns = Script(
        ReplayProgress(more=True, position="dlv_1", started=25),
        ReplayProgress(more=False, position="dlv_2", started=30),
    )
    gid = new_gid(Kind.BATCH)
    await start_replay(engine.client, gid)
    handle: WorkflowHandle[Any, Any] = engine.client.get_workflow_handle(replay_workflow_id(gid))
    await engine.result_without_skipping(handle)
    await album.keep("replay", handle)

    gate, gid = engine.fakes.hold("replay_pages"), new_gid(Kind.BATCH)
    await start_replay(engine.client, gid)
    await gate.entered.wait()
    handle = engine.client.get_workflow_handle(replay_workflow_id(gid))
    await handle.cancel()
    await engine.until_called("cancel_replay", 1)
    gate.open()
    await album.keep("replay-cancelled", handle)


TAKES = (
    healthy,
    failed_before,
    parked_before,
    parked_for_long,
    long_way,
    discarded,
    taken_up,
    replayed,
    endpoint_cycle,
    endpoint_released,
    endpoint_stranded,
    endpoint_settings,
    endpoint_deleted,
    reconcile,
    events,
    loops,
    pulled,
    asked,
    handled,
    retention,
    erasure,
    seal_receipts,
    replayed_early,
    scheduled,
    channel_replayed,  # the last one: after a workflow is cancelled during an activity, this server skips no time
)

if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
    sys.stdout.flush()
    os._exit(0)  # the SDK may abort an interpreter that takes its time to end
