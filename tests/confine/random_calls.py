"""Makes system calls at random, each batch in a fork, which may crash, or has to be killed."""

import ctypes
import os
import random
import signal
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PATHS = [TARGETS[name].encode() + b"\0" for name in ("secret", "victim_file", "outside", "unix", "leases")]
PATHS += [b"/etc/passwd\0", b"/\0", b"/proc/self/mem\0", b".\0", b"own\0"]
# They end the batch (exit, exit_group) or only wait (pause, nanosleep, clock_nanosleep); or they signal
# the session itself, to which a fork of its own may do that.
LEFT_OUT = {60, 231, 34, 35, 230, 62, 129, 200, 234, 297, 424, 72, 154}
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 64, 255, 4096, -1, -100, 0o777, 0x10000000, 0x20000000, 2**31, 2**32, 2**63 - 1]


def batch(seed):
    dice = random.Random(seed)
    room = ctypes.create_string_buffer(65536)
    address = ctypes.addressof(room)
    paths = [ctypes.create_string_buffer(path) for path in PATHS]

    def argument():
        kind = dice.randrange(6)
        if kind == 0:
            return ctypes.addressof(dice.choice(paths))
        if kind == 1:
            return address + dice.randrange(32768)
        if kind == 2:
            return dice.choice((TARGETS["victim"], TARGETS["parent"], os.getpid()))
        if kind == 3:
            return dice.randrange(64)
        return dice.choice(NUMBERS)

    for _ in range(300):
        room.raw = dice.randbytes(512) + room.raw[512:]
        number = dice.randrange(470)
        if number not in LEFT_OUT:
            if dice.random() < 0.05:
                number |= 0x40000000
            libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument()) for _ in range(6)))


def attack(seconds, seed):
    end, batches = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            try:
                batch(seed + batches)
            finally:
                os._exit(0)
        # It may have made itself deaf, or wait for what never comes.
        late = time.monotonic() + 0.5
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > late:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.001)
        batches += 1
    return batches
