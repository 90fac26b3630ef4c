"""Prints nanoseconds for each post to a running loop, then nanoseconds from a post to a sleeping loop
until it runs: the median of several."""

import asyncio
import statistics
import sys
import threading
import time

POSTS, WAKES, PAUSE = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


def run(producer):
    """Runs a loop, and the producer in a second thread, until the loop is stopped."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=producer, args=(loop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.close()


def post(loop):
    global began
    began = time.perf_counter_ns()
    for _ in range(POSTS):
        loop.call_soon_threadsafe(count)
    loop.call_soon_threadsafe(end, loop)


def count():
    global ran
    ran += 1


def end(loop):
    global ended
    ended = time.perf_counter_ns()
    loop.stop()


def wake(loop):
    for _ in range(WAKES):
        time.sleep(PAUSE)
        loop.call_soon_threadsafe(woken, time.perf_counter_ns())
    loop.call_soon_threadsafe(loop.stop)


def woken(start):
    latencies.append(time.perf_counter_ns() - start)


ran, latencies = 0, []
run(post)
run(wake)
assert ran == POSTS and len(latencies) == WAKES
print((ended - began) / POSTS, statistics.median(latencies))
