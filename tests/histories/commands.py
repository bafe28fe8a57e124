"""The commands that workflow code makes for the saved histories: `python -m tests.histories.commands` writes them anew.

A replay compares commands by kind, order and name only. A changed timeout, retry policy, task queue or input of an
activity replays without an error, so a change that `workflow.patched` does not guard could go unnoticed. Here each
command is kept as a line of JSON, next to its history. Look at the difference before you commit it: a running workflow
has the old command in its history, and makes the new one from then on.
"""

import asyncio
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.workflow import _Definition

from everhook.temporal.client import PLUGIN
from tests.histories.record import HERE
from tests.workflows.engine import WORKFLOWS, PreparedOnce


class _NotingRunner(WorkflowRunner):
    """Notes the commands of the workflows that it runs."""

    def __init__(self) -> None:
        self._runner = PreparedOnce()
        self.lines: list[str] = []

    def prepare_workflow(self, defn: _Definition) -> None:
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = self._runner.create_instance(det)
        activate = instance.activate

        def noting(act: WorkflowActivation) -> WorkflowActivationCompletion:
            completion = activate(act)
            commands = map(MessageToDict, completion.successful.commands)
            self.lines += [json.dumps(_readable(command), sort_keys=True) for command in commands]
            return completion

        instance.activate = noting  # type: ignore[method-assign]
        return instance


async def commands_of(history: dict[str, Any]) -> str:
    """The commands that the code makes while it replays a history, one in each line."""
    runner = _NotingRunner()
    replayer = Replayer(workflows=WORKFLOWS, plugins=[PLUGIN], workflow_runner=runner)
    await replayer.replay_workflow(WorkflowHistory.from_json("replayed", history))
    return "\n".join([*runner.lines, ""])


def saved_commands(history: Path) -> Path:
    """The file with the commands of a saved history."""
    return history.with_suffix(".commands")


def _readable(value: Any) -> Any:
    """Payloads as text instead of base64."""
    if isinstance(value, list):
        return [_readable(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"metadata", "data"}:
        return b64decode(value["data"]).decode()
    return {name: _readable(each) for name, each in value.items()}


async def _write() -> None:
    for path in sorted(HERE.glob("*.json")):
        saved_commands(path).write_text(await commands_of(json.loads(path.read_text())))


if __name__ == "__main__":
    asyncio.run(_write())
