"""Kills a process of the job under test at a named point; Python imports this by itself from PYTHONPATH.

The product knows nothing of it: what is named is wrapped from outside, when its module is imported. A name that is no
longer there is an error at the import, so a point cannot go missing in silence. See `tests/crash/points/__init__.py`
for what the environment variables say.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import threading
import time

# What is wrapped for each point: a module, and a method of one of its classes.
PLACES = {
    "source.poll": ("connectors.kafka_source", "KafkaPartition.poll"),
    "progress.note": ("dataflow.read.progress", "ProgressLog.note"),
    "progress.roll": ("dataflow.read.progress", "ProgressLog.roll"),
    "source.snapshot": ("dataflow.job.engine", "_Partition.snapshot"),
    "epoch.recorded": ("dataflow.job.engine", "_Partition.next_batch"),
    "shard.take": ("dataflow.shard", "Shard.take"),
    "shard.snapshot": ("dataflow.job.engine", "_ShardLogic.snapshot"),
    "sink.write": ("connectors.kafka_sink", "KafkaSink.write"),
    "sink.hand_over": ("connectors.kafka_outlet", "Outlet._hand_over"),
    "sink.confirm": ("connectors.kafka_sink", "KafkaSink.confirm"),
    "sink.ends": ("connectors.kafka_sink", "KafkaSink.ends"),
    "store.write": ("state.store", "ShardStore.write"),
    "store.sync": ("state.store", "ShardStore.sync"),
    "store.spill": ("state.store", "ShardStore.spill"),
    "store.roll_back": ("state.store", "ShardStore.roll_back"),
    "sink.read_back": ("dataflow.emit", "Emitter.read_back"),
    "run.forget": ("dataflow.keep.recovery", "forget_unfinished"),
    "run.read_back_from": ("dataflow.job.lifecycle", "Course._read_back_from"),
    "run.finish_the_last": ("dataflow.job.lifecycle", "Course._finish_the_last_run"),
    "run.execute": ("dataflow.job.processes", "JobRunner.execute"),
    "state.write": ("dataflow.keep.statedir", "write_state_file"),
    "register.place": ("state.registerfile", "RegisterFile.find_place"),
    "register.arm": ("state.registerfile", "RegisterFile.find_arm"),
    "register.sync": ("state.registerfile", "RegisterFile._sync"),
}
HANGS_S = 1.0
STATE_FILE = "nudge.json"  # A point by itself: the moment at which the new one takes the place of the old one.

PROCESS = "dataflow.job.process"  # As the parent starts it, with its index as the first argument.
_is_worker = PROCESS in sys.orig_argv
_index = int(sys.orig_argv[sys.orig_argv.index(PROCESS) + 1]) if _is_worker else None
_lock = threading.Lock()


class Trigger:
    """Counts the calls of one point and kills at the one that was asked for."""

    def __init__(self, text):
        name, self.when, rest = text.split(":")
        number, _, delay = rest.partition("+")
        number, _, index = number.partition("@")
        self.text, self.name, self.number, self.calls = text, name, int(number), 0
        self.delay_s = float(delay.removesuffix("ms") or 0) / 1000
        self.index = int(index) if index else None

    def passes(self, when):
        if when != self.when or self.index not in (None, _index):
            return
        with _lock:
            self.calls += 1
            if self.calls != self.number:
                return
        if self.delay_s:
            threading.Thread(target=self.strike, daemon=True).start()
        else:
            self.strike()

    def strike(self):
        time.sleep(self.delay_s)
        note = os.open(os.environ["NUDGE_CRASH_NOTE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(note, f"{self.text} {os.getpid()}\n".encode())
        who = os.environ.get("NUDGE_CRASH_WHO")
        if who == "hang":
            time.sleep(HANGS_S)  # Stands still here while the other processes go on, then all die.
        if _is_worker and who in ("job", "hang"):
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def wrapped(method, trigger):
    def around(*args, **kwargs):
        trigger.passes("before")
        result = method(*args, **kwargs)
        trigger.passes("after")
        return result

    return around


def first_of_an_epoch(method, trigger):
    """Count the first call in each epoch: the engine lets it come once the last epoch is recorded."""

    def around(self, *args, **kwargs):
        begins, self.__dict__["_epoch_began"] = self.__dict__.get("_epoch_began"), False
        if begins:
            trigger.passes("before")
        result = method(self, *args, **kwargs)
        if begins:
            trigger.passes("after")
        return result

    return around


def noting_the_epoch(method):
    def around(self):
        self.__dict__["_epoch_began"] = True
        return method(self)

    return around


def paced(method, records, pause_s):
    """Read little at a time, so that a small input lasts for many epochs."""

    def around(self, records_max):
        time.sleep(pause_s)
        return method(self, min(records, records_max))

    return around


def with_epochs_of(execute, seconds):
    """Let epochs be shorter than the settings allow, so that a run of a second has many."""

    def around(worker):
        worker.plan.epoch_s = seconds
        return execute(worker)

    return around


def patch(module, path, wrap):
    owner, _, name = path.rpartition(".")
    target = getattr(module, owner) if owner else module
    setattr(target, name, wrap(target.__dict__[name]))


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the modules in question as always, and wraps what is asked for."""

    def __init__(self, patches):
        self.patches, self.loaders = patches, {}

    def find_spec(self, name, path, target=None):
        if name not in self.patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        self.loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        self.loaders[module.__name__].exec_module(module)
        for path, wrap in self.patches[module.__name__]:
            patch(module, path, wrap)

    def get_code(self, name):  # For `python -m`.
        return self.loaders[name].get_code(name)


def install():
    patches = {}

    def add(place, wrap):
        patches.setdefault(place[0], []).append((place[1], wrap))

    if pace := os.environ.get("NUDGE_CRASH_PACE"):
        records, pause_ms, epoch_ms = pace.split("/")
        add(PLACES["source.poll"], lambda method: paced(method, int(records), float(pause_ms) / 1000))
        add(("dataflow.job.engine", "execute"), lambda execute: with_epochs_of(execute, float(epoch_ms) / 1000))
    for text in filter(None, os.environ.get("NUDGE_CRASH_AT", "").split(",")):
        trigger = Trigger(text)
        if trigger.name == STATE_FILE:
            replace = os.replace

            def around(source, target, replace=replace, trigger=trigger):
                ours = os.path.basename(target) == STATE_FILE
                if ours:
                    trigger.passes("before")
                replace(source, target)
                if ours:
                    trigger.passes("after")

            os.replace = around
        elif trigger.name == "epoch.recorded":
            add(PLACES["source.snapshot"], noting_the_epoch)
            add(PLACES[trigger.name], lambda method, trigger=trigger: first_of_an_epoch(method, trigger))
        else:
            add(PLACES[trigger.name], lambda method, trigger=trigger: wrapped(method, trigger))
    if patches:
        sys.meta_path.insert(0, Hook(patches))


install()
