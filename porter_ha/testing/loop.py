"""An asyncio event loop on simulated time, and processes in it that can be stopped, continued and killed.

Time stands still while there is work and jumps to the next timer when there is none. Everything that a simulated
process does runs in a context of its own (contextvars), which is how the loop knows whom a callback belongs to:
a stopped process's callbacks wait, as after SIGSTOP; a killed one's never run, as after SIGKILL.

One seed gives one run: callbacks run in the order in which they were scheduled, and nothing here reads a real clock.
"""

import asyncio
import contextlib
import contextvars
from asyncio import Handle
from collections import deque
from collections.abc import Callable, Coroutine
from enum import Enum
from heapq import heappop
from typing import Any


class Phase(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"


_current: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class Process:
    """One simulated process. `on_exit` hears of its death once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.phase = Phase.RUNNING
        self.on_exit: list[Callable[[], object]] = []
        self.parked: deque[Handle] = deque()
        self.context = contextvars.Context()
        self.context.run(_current.set, self)
        self._loop = running()
        self._loop.processes.append(self)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work, context=self.context)

    def stop(self) -> None:
        if self.phase is Phase.RUNNING:
            self.phase = Phase.STOPPED

    def cont(self) -> None:
        if self.phase is Phase.STOPPED:
            self.phase = Phase.RUNNING
            self._loop.readmit(self.parked)

    def kill(self) -> None:
        if self.phase is not Phase.DEAD:
            self.phase = Phase.DEAD
            for heard in self.on_exit:
                heard()


def running() -> "SimulatedLoop":
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


def current() -> str:
    """The name of the process in whose name code runs now."""
    owner = _current.get()
    return owner.name if owner is not None else "-"


class Idle(Exception):
    """Nothing is left to happen: every process waits for another."""


class SimulatedLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._simulated = 0.0
        self.failures: list[str] = []
        self.processes: list[Process] = []
        self.at_end: list[Callable[[], object]] = []
        self._ending = False
        # Held here, or Python would finish off a dead process's tasks in mid-run.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        return self._simulated

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def finish(self) -> None:
        """End every task of every process, dead ones too, so that the next run finds nothing of this one."""
        self._ending = True
        for process in self.processes:
            self.readmit(process.parked)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Idle):
            if tasks:
                self.run_until_complete(asyncio.wait(tasks, timeout=60.0))
        for do in self.at_end:
            do()
        self.close()

    def readmit(self, handles: deque[Handle]) -> None:
        """What a stopped process did not get to do, it does now."""
        self._ready.extend(handles)  # type: ignore[attr-defined]
        handles.clear()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise Idle
            self._simulated = max(self._simulated, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._simulated:
            timer = heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            owner = handle._context.get(_current)
            if owner is None or owner.phase is Phase.RUNNING or self._ending:
                handle._run()
            else:
                owner.parked.append(handle)

    def _write_to_self(self) -> None:
        """Nothing sleeps in a selector here."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave when they are due."""
