"""mayu as one of the peers; it speaks the protocol of the README."""

import argparse
import json
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

from mayu import App
from mayu.worker import WorkerRunner

TEXT_BYTES = 92
DIGITS = 8
PATIENCE_S = 25
REPORT_EVERY_S = 0.02


def work(index: int) -> dict:
    """100 bytes as JSON (mayu packs it a little tighter), with the job's number in front."""
    return {"d": f"{index:0{DIGITS}}".ljust(TEXT_BYTES, "x")}


def say(message: dict) -> None:
    print(json.dumps(message), flush=True)


class Tally:
    def __init__(self, jobs: int):
        self.runs = bytearray(jobs)
        self.total = 0
        self.first_ns = 0
        self.last_ns = 0
        self.changed = threading.Event()
        self.lock = threading.Lock()

    def ran(self, d: str) -> None:
        now = time.time_ns()
        index = int(d[:DIGITS])
        with self.lock:
            self.runs[index] += 1
            self.first_ns = self.first_ns or now
            self.last_ns = now
            self.total += 1
        self.changed.set()


class Peer:
    def __init__(self, url: str, jobs: int):
        self.app = App(broker=url)
        self.tally = Tally(jobs)
        self.task = self.app.task(self._nothing, name="nothing")

    def _nothing(self, d: str) -> None:
        self.tally.ran(d)

    def enqueue(self, job: dict) -> None:
        self.task.send(**job)

    def start(self, concurrency: int) -> WorkerRunner:
        runner = WorkerRunner(self.app, threads=concurrency)
        runner.start()
        return runner


def stop(runner: WorkerRunner) -> None:
    runner.stop()
    runner.join()


def enqueue(peer: Peer, options: argparse.Namespace) -> None:
    works = [work(index) for index in range(options.jobs)]
    peer.app.client  # connects; the clock starts afterwards
    started = time.perf_counter()
    if options.mode == "many":
        remaining = iter(works)
        lock = threading.Lock()

        def caller() -> None:
            while True:
                with lock:
                    job = next(remaining, None)
                if job is None:
                    return
                peer.enqueue(job)

        threads = [threading.Thread(target=caller) for _ in range(options.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        # It has no bulk call; the driver does not time this as one.
        for job in works:
            peer.enqueue(job)
    say({"jobs": options.jobs, "seconds": time.perf_counter() - started})


def run_worker(peer: Peer, options: argparse.Namespace) -> None:
    runner = peer.start(options.concurrency)
    say({"ready": True})
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    reported = 0
    while not ended.wait(REPORT_EVERY_S):
        if peer.tally.total != reported:
            reported = peer.tally.total
            say({"done": reported})
    stop(runner)
    Path(options.tally).write_bytes(peer.tally.runs)
    first_us = peer.tally.first_ns // 1000 if peer.tally.total else (1 << 53) - 1
    say({"first_us": first_us, "last_us": peer.tally.last_ns // 1000, "ended": True})


def pickup(peer: Peer, options: argparse.Namespace) -> None:
    runner = peer.start(options.concurrency)
    time.sleep(1)
    latencies = []
    missing = 0
    until = time.monotonic() + options.seconds
    for index in range(options.jobs):
        time.sleep(options.gap_ms / 1000)
        if time.monotonic() > until:
            break
        peer.tally.changed.clear()
        enqueued_ns = time.time_ns()
        peer.enqueue(work(index))
        if not peer.tally.changed.wait(PATIENCE_S):
            missing += 1
            break
        latencies.append((peer.tally.last_ns - enqueued_ns) // 1000)
    stop(runner)
    say({"latencies_us": latencies, "missing": missing})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["about", "enqueue", "work", "pickup"])
    parser.add_argument("--url")
    parser.add_argument("--variant", default="default")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--mode", choices=["one", "many", "bulk"])
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--tally")
    parser.add_argument("--gap-ms", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    if options.command == "about":
        settings = {"default": "one process with the concurrency as threads; results not kept"}
        say({"version": version("mayu"), "settings": settings})
        return
    commands = {"enqueue": enqueue, "work": run_worker, "pickup": pickup}
    commands[options.command](Peer(options.url, options.jobs), options)


if __name__ == "__main__":
    main()
