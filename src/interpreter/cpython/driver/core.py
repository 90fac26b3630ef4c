"""The child's side of the CPython engine: runs cells, one after another, and tells what came of it.

Rooms. This one and the next two, `streams` and `cell`, are run at the start, as one. The others are
run when they are needed first (`need`), in the same namespace, for most sessions never enter most
of them: `errors`, `shown`, `magics`, `tasks`, `variables`.

Channel. Descriptor 0 is, at start, a socket over which three descriptors come: the pipes of
requests, of frames, and of interrupts. It is moved away before any cell runs, and kept, for more
descriptors may come.
    request   kind u8 | cell u32 | limit of text u64 | limit of data u64 | length u32 | code, UTF-8.
              Kinds: c cell; n cell, for which there are two descriptors to be taken from the
              socket: the pipes that are to be standard output and standard error from now on;
              v question for variables; e end.
    frame     kind u8 | cell u32 | length u32 | payload.  Kinds: h hello, o stdout, e stderr,
              d display, r reply, s short reply, v variables, m out of memory, k this room compiled,
              before the hello and for the next start, if it was sent none that fits; the payload
              of h, d, r and v is JSON, that of s is a byte of flags and the value's repr, that of
              m is empty, and it is the last.
    All numbers are big-endian.
    interrupt u32, beside a SIGINT: the request that it is for, the first being 1; or 0, when a request
              has been waiting for a while, and what runs between cells is to give way to it.
End of file on the pipe of requests means: exit.

Interrupts. A signal may be handled when what it was sent for is over, or before that has begun. So
the parent says which request it means. A SIGINT beside which nothing was said is a cell's own, or
comes from a terminal: it is for whatever runs.

Order. What Python code writes to sys.stdout and sys.stderr travels in frames, in the order written.
What goes to descriptors 1 and 2 otherwise (os.write, child processes, C code) travels in two pipes
that the parent reads. Before a frame of output is sent, the pipes must have been emptied
(`settle`); and the parent takes frames before pipes when it finds both. So neither overtakes the
other. After the reply the parent empties the pipes itself.

Whose output it is. Each thread belongs to the cell that started it, each task of asyncio to the
cell that made it. What they write after that cell has ended is laid by, and reported under its own
cell's number. A child process that outlives its cell keeps that cell's pipes: the reply says
`tainted`, and the parent sends new ones.

Speed. While a cell runs its caller waits. What can be is done after the reply (`tidy`), when the
caller has what it waited for. A start costs what is imported and compiled before the hello.

Names. Cells may have modules of their own that are called like the standard library's, in the
working directory or anywhere on their path. The driver's own imports never see them (`library`).
"""

import _ast
import _contextvars
import _signal
import _socket
import _thread
import builtins
import io
import os
import sys
import time
from _struct import Struct
from fcntl import ioctl
from termios import FIONREAD

DRIVER = "<python>"  # the file name this source is compiled under; warnings may show it
STANDARD = os.path.dirname(os.__file__)  # where the standard library is
INTERRUPT = Struct(">I")
REQUEST = Struct(">cIQQI")
FRAME = Struct(">cII")
SHORT = Struct(">cIIB")
TAINTED, CUT, VALUE = 1, 2, 4  # flags of a short reply
PIECE = 60_000  # bytes of one frame of text
HELD = 8_000  # characters of an unfinished line that are held back
LAID_BY = 65_536  # bytes of late output that are kept between two cells
EMPTY = bytes(4)
MAIN = _thread.get_ident()
ONLY_AST, TOP_LEVEL_AWAIT, COROUTINE = 0x400, 0x2000, 0x80  # the compiler's flags, and a code's
FORKS = dict.fromkeys((
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
    "subprocess.Popen",
))

# What the main thread is doing, for the handlers of signals.
IDLE, PREPARING, RUNNING, REPORTING = range(4)
phase = IDLE
serial = 0  # the number of the last request
wanted = 0  # the last request that was to be interrupted
tokens = bytearray(1024)  # room for what the parent says of interrupts
pending = False  # an interrupt came when it could not be raised
blocking = None  # the frame of what ran between cells when a request was found waiting
UNHURT = struck = None, None  # the cell, and the task, that an interrupt has hit between cells
step = None  # the code of a step of the event loop's
deferred = []  # (handler of a cell's, signal) that could not be called when it came
muted = False  # what the main thread puts out is thrown away
sending = False  # the main thread is inside `emit`: a frame must not be torn

current = None  # the number of the running cell; under `lock`
count = 0  # the number of the last cell
cells = {}  # thread -> the cell that started it; the main thread is not in it
owner = _contextvars.ContextVar("cell")  # of the main thread and of tasks: the cell they belong to
sources = {}  # file name -> the lines of a cell, for tracebacks
late = []  # [cell, kind, text] of ended cells
late_size = 0
late_cut = False
unheard = FORKS.copy()  # audit events that the running cell has not raised
forked = False  # the running cell has started a process, or an earlier one's may be alive
is_copy = False  # this process is a fork of the child
settles = True  # whether it is worth waiting for the pipes, in this cell
loop = None  # the event loop of cells
figures = None  # what shows matplotlib's figures, once that is imported
suspended = ()  # (frame, line) of what an interrupted `await` waited for
recent = [None, None, None]  # the last values shown
limit, data_limit = LAID_BY, 0  # of the running cell
# Memory to have when there is none left: one piece for what a cell prints then, one for its reply.
spare = reserve = None
# Reentrant: a finalizer that prints may run while a frame is being made.
lock = _thread.RLock()

# `made` is this room as it was compiled, to be told; `passage` is the socket, `pipes` are what came over it first, `rooms` the other rooms' sources,
# `path` what `sys.path` shall be for cells, `options` the manager's.
requests, frames, interrupts = (io.FileIO(fd, mode) for fd, mode in zip(pipes, "rwr"))
for fd in pipes:
    os.set_inheritable(fd, False)
taps = [os.dup(1), os.dup(2)]  # our own hold on the pipes, whatever a cell does to 1 and 2
marks = [os.fstat(fd)[1:3] for fd in taps]
rooms = dict(zip(("errors", "shown", "magics", "tasks", "variables"), rooms))


def need(room):
    """Runs a room of the driver, unless it has been."""
    source = rooms.get(room)
    if source:
        code = compile(source, DRIVER, "exec")
        exec(code, globals())
        rooms[room] = None


def is_standard(module):
    file = getattr(module, "__file__", None)
    return file is None or file.startswith(STANDARD)


def library(name):
    """Imports a module of the standard library, whatever else goes by its name or its parts' names."""
    found = sys.modules.get(name)
    if found is not None and is_standard(found):
        return found
    own = {
        name: module for name, module in tuple(sys.modules.items())
        if module is not main and "." not in name and not is_standard(module)
        and (os.path.exists(f"{STANDARD}/{name}.py") or os.path.isdir(f"{STANDARD}/{name}"))
    }
    for name_of_own in own:
        own.update({n: m for n, m in tuple(sys.modules.items()) if n.startswith(name_of_own + ".")})
    for name_of_own in own:
        sys.modules.pop(name_of_own, None)
    kept, sys.path[:] = sys.path[:], standard_path
    pause_tracers()
    try:
        __import__(name)
        return sys.modules[name]
    finally:
        sys.path[:] = kept
        sys.modules.update(own)
        if phase == RUNNING:
            resume_tracers()


def to_json(value):
    """JSON as UTF-8; of strings, numbers, lists and dicts, which is all there is to tell."""
    pieces = []
    write_json(value, pieces.append)
    return "".join(pieces).encode("utf-8", "replace")


def write_json(value, put):
    if isinstance(value, str):
        put(quoted(value))
    elif value is None:
        put("null")
    elif value is True or value is False:
        put("true" if value else "false")
    elif isinstance(value, int):
        put(int.__repr__(value))
    elif isinstance(value, float):
        if value - value != 0:
            raise ValueError("not a number of JSON's")
        put(float.__repr__(value))
    elif isinstance(value, (list, tuple)):
        put("[")
        for at, item in enumerate(value):
            put(", " if at else "")
            write_json(item, put)
        put("]")
    elif isinstance(value, dict):
        put("{")
        for at, (key, item) in enumerate(value.items()):
            put(", " if at else "")
            put(quoted(key if isinstance(key, str) else str(key)))
            put(": ")
            write_json(item, put)
        put("}")
    else:
        raise TypeError(f"{type(value).__name__} is no type of JSON's")


def shorten(text, limit):
    """At most `limit` bytes of UTF-8."""
    if len(text) <= limit and text.isascii():
        return text
    if text.isascii():
        return text[:limit]
    return text[:limit].encode("utf-8", "backslashreplace")[:limit].decode("utf-8", "ignore")


def set_aside():
    """Lays by memory for when a cell has left none; less, if there is no more than that."""
    global spare, reserve
    if options["reserve"]:
        if reserve is None:
            reserve = piece_of(options["reserve"])
        if spare is None:
            spare = piece_of(options["reserve"] // 4)


def piece_of(size):
    while size > 65_536:
        try:
            return bytearray(size)
        except MemoryError:
            size //= 2
    return None
