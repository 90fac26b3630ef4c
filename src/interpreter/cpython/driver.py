"""The child's side of the CPython engine: runs cells, one after another, and tells what came of it.

Channel. Descriptor 0 is, at start, a socket over which two descriptors come: the pipes of requests
and of frames. It is moved away before any cell runs, and kept, for more descriptors may come.
    request   kind u8 | cell u32 | limit u64 | length u32 | code, UTF-8.  Kinds: c cell; n cell, for
              which there are two descriptors to be taken from the socket: the pipes that are to be
              standard output and standard error from now on; v question for variables; e end.
    frame     kind u8 | cell u32 | length u32 | payload.  Kinds: h hello, o stdout, e stderr,
              d display, r reply, s short reply, v variables; the payload of h, d, r and v is
              JSON, that of s is a byte of flags and the value's repr.
    All numbers are big-endian.
End of file on the pipe of requests means: exit.

Order. What Python code writes to sys.stdout and sys.stderr travels in frames, in the order written.
What goes to descriptors 1 and 2 otherwise (os.write, child processes, C code) travels in two pipes
that the parent reads. Before a frame of output is sent, the pipes must have been emptied
(`settle`); and the parent takes frames before pipes when it finds both. So neither overtakes the
other. After the reply the parent empties the pipes itself.

Whose output it is. Each thread belongs to the cell that started it. What it writes after that cell
has ended is laid by, and reported under its own cell's number. A child process that outlives its
cell keeps that cell's pipes: the reply says `tainted`, and the parent sends new ones.

Speed. While a cell runs its caller waits. What can be is done after the reply (`tidy`), when the
caller has what it waited for.
"""

import _signal
import _socket
import _thread
import ast
import builtins
import functools
import getpass
import io
import json
import linecache
import os
import re
import select
import signal
import struct
import sys
import textwrap
import threading
import time
import traceback
import types
from fcntl import ioctl
from termios import FIONREAD

DRIVER = "<sessile>"  # the file name this source is compiled under
REQUEST = struct.Struct(">cIQI")
FRAME = struct.Struct(">cII")
SHORT = struct.Struct(">cIIB")
TAINTED, CUT, VALUE = 1, 2, 4  # flags of a short reply
PIECE = 60_000  # bytes of one frame of text
HELD = 8_000  # characters of an unfinished line that are held back
SHOWN = 1_000  # bytes of one variable's `repr`
LAID_BY = 65_536  # bytes of late output that are kept between two cells
EMPTY = bytes(4)
MAIN = _thread.get_ident()
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
MAGIC = re.compile(r"(\w+ *= *)?[%!]")  # how a line of IPython's begins that is not Python
FORKS = dict.fromkeys((
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
    "subprocess.Popen",
))

# What the main thread is doing, for the handler of SIGINT.
IDLE, PREPARING, RUNNING, REPORTING = range(4)
phase = IDLE
pending = False  # an interrupt came when it could not be raised
muted = False  # what the main thread puts out is thrown away
sending = False  # the main thread is inside `emit`: a frame must not be torn

current = None  # the number of the running cell; under `lock`
count = 0  # the number of the last cell
cells = {}  # thread -> the cell that started it; the main thread is not in it
late = []  # [cell, kind, text] of ended cells
late_size = 0
late_cut = False
unheard = FORKS.copy()  # audit events that the running cell has not raised
forked = False  # the running cell has started a process, or an earlier one's may be alive
replaced = False  # the cell has put a file in the place of a standard stream
is_copy = False  # this process is a fork of the child
settles = True  # whether it is worth waiting for the pipes, in this cell
loop = None  # the event loop of top-level await
figures = None  # what shows matplotlib's figures, once that is imported
recent = [None, None, None]  # the last values shown
# Reentrant: a finalizer that prints may run while a frame is being made.
lock = threading.RLock()

# `passage` is the socket, and `pipes` are what came over it first.
requests, frames = io.FileIO(pipes[0], "r"), io.FileIO(pipes[1], "w")
for fd in pipes:
    os.set_inheritable(fd, False)
taps = [os.dup(1), os.dup(2)]  # our own hold on the pipes, whatever a cell does to 1 and 2
marks = [os.fstat(fd)[1:3] for fd in taps]
broken = select.poll()  # of the standard descriptors, those that are closed
for fd in 0, 1, 2:
    broken.register(fd, 0)


# ---- what cells write ----------------------------------------------------------------------------


def settle():
    """Waits until the parent has read what lies in the pipes; gives up for this cell after 0.2 s."""
    global settles
    if not settles:
        return
    try:
        for fd in taps:
            if ioctl(fd, FIONREAD, EMPTY) != EMPTY:
                deadline = time.monotonic() + 0.2
                while ioctl(fd, FIONREAD, EMPTY) != EMPTY:
                    if time.monotonic() > deadline:
                        settles = False
                        return
                    time.sleep(0.00005)
    except OSError:
        settles = False


def send(data):
    """Sends one or more frames; `lock` is held."""
    sent = frames.write(data)
    while sent < len(data):  # a signal came
        sent += frames.write(memoryview(data)[sent:])


def lay_by(cell, kind, payload):
    global late_size, late_cut
    if kind == b"d" or late_size + len(payload) > LAID_BY:
        late_cut = True
        return
    late_size += len(payload)
    text = payload.decode("utf-8", "replace")
    if late and late[-1][0] == cell and late[-1][1] == kind.decode():
        late[-1][2] += text
    else:
        late.append([cell, kind.decode(), text])


def emit(kind, payload):
    """Sends what the calling thread has put out, or lays it by if its cell has ended."""
    global sending, pending
    if is_copy:
        while payload:
            payload = payload[os.write(2 if kind == b"e" else 1, payload):]
        return
    thread = _thread.get_ident()
    is_main = thread == MAIN
    if is_main and muted:
        return
    nested = sending
    if is_main:
        sending = True
    try:
        with lock:
            cell = cells.get(thread, count)
            if cell != current:
                lay_by(cell, kind, payload)
                return
            settle()
            if len(payload) <= PIECE or kind == b"d":
                send(FRAME.pack(kind, cell, len(payload)) + payload)
                return
            view = memoryview(payload)
            for start in range(0, len(view), PIECE):
                piece = view[start:start + PIECE]
                send(FRAME.pack(kind, cell, len(piece)) + piece)
    finally:
        if is_main:
            sending = nested
            if pending and phase == RUNNING and not sending:
                pending = False
                raise KeyboardInterrupt


class Bytes(io.RawIOBase):
    """What `sys.stdout.buffer` is."""

    def __init__(self, text):
        self.text = text

    def writable(self):
        return True

    def fileno(self):
        return self.text.fileno()

    def write(self, data):
        data = bytes(data)
        self.text.flush()
        emit(self.text.kind, data)
        return len(data)


class Text(io.TextIOBase):
    """Standard output or standard error: line by line, and each thread's lines apart."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True

    def __init__(self, kind, fd, name):
        self.kind = kind
        self.fd = fd
        self.name = name
        self.held = {}  # thread -> its unfinished line
        self.buffer = Bytes(self)

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self.fd

    def reconfigure(self, **_):
        pass

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        thread = _thread.get_ident()
        line = self.held.pop(thread, "") + text
        if "\n" in text or len(line) > HELD:
            emit(self.kind, line.encode("utf-8", "backslashreplace"))
        else:
            self.held[thread] = line
        return len(text)

    def flush(self):
        line = self.held.pop(_thread.get_ident(), "")
        if line:
            emit(self.kind, line.encode("utf-8", "backslashreplace"))

    def release(self):
        """Sends or lays by what all threads hold, as `emit` would for each; `lock` is held."""
        for thread in list(self.held):
            line = self.held.pop(thread, "").encode("utf-8", "backslashreplace")
            cell = cells.get(thread, count)
            if cell != current:
                lay_by(cell, self.kind, line)
            elif line:
                settle()
                send(FRAME.pack(self.kind, cell, len(line)) + line)


def streams():
    return Text(b"o", 1, "<stdout>"), Text(b"e", 2, "<stderr>")


def repair():
    """Gives a cell working standard streams, whatever the last one did to them."""
    for fd, tap, mark in (1, taps[0], marks[0]), (2, taps[1], marks[1]):
        try:
            if os.fstat(fd)[1:3] == mark:
                continue
        except OSError:
            pass
        os.dup2(tap, fd)
    out, err = standard
    if out.closed or err.closed:
        standard[:] = out, err = streams()
    if sys.stdout is not out and getattr(sys.stdout, "closed", True):
        sys.stdout = sys.__stdout__ = out
    if sys.stderr is not err and getattr(sys.stderr, "closed", True):
        sys.stderr = sys.__stderr__ = err
    try:
        os.fstat(0)
    except OSError:
        open_null()
    if getattr(sys.stdin, "closed", True):
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)


def noticed(dup2):
    """Wraps `os.dup2`, which can put another file in the place of a standard stream."""

    @functools.wraps(dup2)
    def wrapper(fd, fd2, *rest, **options):
        global replaced
        replaced |= fd2 <= 2
        return dup2(fd, fd2, *rest, **options)

    return wrapper


def open_null():
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def new_pipes():
    """Takes the pipes that have been passed, in the place of those that were."""
    global taps, marks
    ancillary = passage.recvmsg(1, _socket.CMSG_SPACE(8))[1]
    old, taps = taps, list(struct.unpack("2i", ancillary[0][2]))
    marks = [os.fstat(fd)[1:3] for fd in taps]
    for fd, tap in zip((1, 2), taps):
        os.set_inheritable(tap, False)
        os.dup2(tap, fd)
    for fd in old:
        os.close(fd)


# ---- threads and processes that cells start ------------------------------------------------------


def belonging(start):
    """Wraps a function that starts a thread, so that the thread knows its cell."""

    def start_thread(function, *rest, **options):
        cell = cells.get(_thread.get_ident(), count)

        def run(*args, **kwargs):
            thread = _thread.get_ident()
            cells[thread] = cell
            try:
                return function(*args, **kwargs)
            finally:
                for stream in standard:
                    if not stream.closed:
                        stream.flush()
                cells.pop(thread, None)

        return start(run, *rest, **options)

    return start_thread


for module in _thread, threading:
    for name in "start_new_thread", "_start_new_thread", "start_joinable_thread", "_start_joinable_thread":
        if hasattr(module, name):
            setattr(module, name, belonging(getattr(module, name)))


def has_children():
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    except OSError:
        return False


def before_fork():
    for stream in standard:
        if not stream.closed:
            stream.flush()


def after_fork_in_child():
    # The channel is the original's; a copy writes to the descriptors like any other process.
    global is_copy, lock
    is_copy = True
    lock = threading.RLock()
    for stream in standard:
        stream.held.clear()
    for ours in passage, requests, frames:
        ours.close()


# ---- interrupts ----------------------------------------------------------------------------------


def on_interrupt(_signal, _frame):
    global pending
    if phase == RUNNING and not sending:
        raise KeyboardInterrupt
    if phase in (PREPARING, RUNNING):
        pending = True


# ---- running a cell ------------------------------------------------------------------------------


def ends_in_semicolon(code, statement):
    if ";" not in code:
        return False
    lines = code.encode().splitlines()
    rest = lines[statement.end_lineno - 1][statement.end_col_offset:]
    return rest.lstrip().startswith(b";")


def evaluate(code):
    value = eval(code, scope)
    if code.co_flags & 0x80:  # CO_COROUTINE: there is an await at top level
        return complete(value)
    return value


def complete(coroutine):
    """Runs the cell's coroutine in the loop that all cells share."""
    import asyncio
    import warnings
    global loop
    if loop is None or loop.is_closed():
        try:
            # One that an earlier cell has made, with tasks in it.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = None
        if loop is None or loop.is_closed():
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done():  # interrupted: it must not wake up in a later cell
            task.cancel()
            asyncio.gather(task, return_exceptions=True)
            loop.run_until_complete(asyncio.sleep(0))
        raise


FORMS = (
    ("_repr_html_", "text/html"), ("_repr_markdown_", "text/markdown"),
    ("_repr_latex_", "text/latex"), ("_repr_json_", "application/json"),
    ("_repr_svg_", "image/svg+xml"), ("_repr_png_", "image/png"), ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"), ("_repr_javascript_", "application/javascript"),
)


def bundle(value, limit):
    """The forms of a value, by MIME type, and whether something was left out."""
    whole = repr(value)
    text = shorten(whole, limit)
    forms, cut = {"text/plain": text}, len(text) < len(whole)
    kind = type(value)
    if kind.__module__ == "builtins":
        return forms, cut
    found = {}
    if hasattr(kind, "_repr_mimebundle_"):
        found = value._repr_mimebundle_()
        found = dict((found[0] if isinstance(found, tuple) else found) or {})
    if is_figure(value):
        found["image/png"] = picture(value)
    for method, mime in FORMS:
        if mime not in found and hasattr(kind, method):
            found[mime] = getattr(value, method)()
    for mime, data in found.items():
        if isinstance(data, tuple):
            data = data[0]
        if data is None:
            continue
        if isinstance(data, bytes):
            import base64
            data = base64.b64encode(data).decode()
        if not mime.endswith("json") and not isinstance(data, str):
            continue
        try:
            size = len(json.dumps(data, allow_nan=False))
        except (TypeError, ValueError):
            continue
        if size > limit:
            cut = True
        else:
            forms[mime] = data
    return forms, cut


def display(*values, **_options):
    """Shows values between the lines that are printed, each in all its forms."""
    for value in values:
        for stream in standard:
            stream.flush()
        emit(b"d", to_json(bundle(value, limit)[0]))


class Figures:
    """Shows matplotlib's figures: those that are open when a cell ends, or at `show()`.

    It is matplotlib's backend of the name below, unless the environment or the cell names another.
    Not by way of the environment: programs that cells start would look for it in vain.
    """

    NAME = "sessile_figures"

    def __init__(self, matplotlib):
        backend = types.ModuleType(self.NAME)
        sys.modules[self.NAME] = backend
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        class FigureCanvas(FigureCanvasAgg):
            pass

        FigureCanvas.__module__ = self.NAME
        backend.FigureCanvas = self.canvas = FigureCanvas
        backend.show = self.show_all
        matplotlib.rcParams["backend"] = "module://" + self.NAME

    def show_all(self, *_args, **_options):
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        try:
            for number in pyplot.get_fignums():
                figure = pyplot.figure(number)
                if isinstance(figure.canvas, self.canvas):
                    display(figure)
        finally:
            pyplot.close("all")


def use_figures(matplotlib):
    global figures
    if "MPLBACKEND" not in os.environ:
        figures = Figures(matplotlib)


def is_figure(value):
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def picture(figure):
    data = io.BytesIO()
    if figure.axes or figure.lines:
        figure.canvas.print_figure(data, format="png", dpi=figure.dpi, bbox_inches="tight")
    return data.getvalue() or None


def use_display(module):
    """Has IPython's own functions, if it is installed, do what ours do."""
    module.display, module.clear_output = display, lambda *_args, **_options: None


class OnImport:
    """A finder that has a module changed as soon as it has been imported."""

    changes = {"matplotlib": use_figures, "IPython.core.display_functions": use_display}

    def find_spec(self, name, path=None, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        for finder in sys.meta_path:
            spec = finder is not self and finder.find_spec(name, path, target)
            if spec:
                break
        else:
            self.changes[name] = change  # it may be installed later
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def shorten(text, limit):
    """At most `limit` bytes of UTF-8."""
    if text.isascii():
        return text[:limit]
    return text.encode("utf-8", "backslashreplace")[:limit].decode("utf-8", "ignore")


encode_json = json.JSONEncoder(ensure_ascii=False).encode


def to_json(answer):
    return encode_json(answer).encode("utf-8", "replace")


def without_us(shown):
    """Takes the driver's own frames out of a traceback, and out of those it came from."""
    todo, seen = [shown], set()
    while todo:
        shown = todo.pop()
        if shown is None or id(shown) in seen:
            continue
        seen.add(id(shown))
        shown.stack[:] = [frame for frame in shown.stack if frame.filename != DRIVER]
        todo += [shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())]


def describe(error, limit):
    kind = type(error)
    shown = traceback.TracebackException(kind, error, error.__traceback__, compact=True)
    without_us(shown)
    entry = (i for i, frame in enumerate(shown.stack) if frame.filename.startswith("<cell "))
    del shown.stack[:next(entry, 0)]  # the event loop's frames, above an await
    whole = str(error), "".join(shown.format()).rstrip("\n")
    value, text = (shorten(part, limit) for part in whole)
    cut = len(value) < len(whole[0]) or len(text) < len(whole[1])
    return {"name": kind.__name__, "value": value, "traceback": text}, cut


def refuse_input(*_args, **_kwargs):
    raise StdinNotImplementedError("input was called, but this frontend does not support input requests.")


def refuse_getpass(*_args, **_kwargs):
    raise StdinNotImplementedError("getpass was called, but this frontend does not support input requests.")


class StdinNotImplementedError(NotImplementedError):
    """Nobody is there to answer."""


StdinNotImplementedError.__module__ = "builtins"


def running(task, *args):
    """Calls what runs a cell's own code: here, and only here, an interrupt is raised."""
    global phase, pending
    try:
        phase = RUNNING
        if pending:
            pending = False
            raise KeyboardInterrupt
        return task(*args)
    finally:
        phase = REPORTING


def run_body(code, name, limit):
    # Most cells that are asked for a value are one line. An assignment is not worth the attempt.
    if "\n" not in code and "=" not in code:
        try:
            line = compile(code, name, "eval", FLAGS, True)
        except Exception:
            pass  # not an expression, or none that is right: to be found out below
        else:
            return running(show, line, limit)
    try:
        tree = compile(code, name, "exec", FLAGS | ast.PyCF_ONLY_AST, True)
    except IndentationError:
        # Copied from within a block, as a whole: that is no error in a notebook.
        plain = textwrap.dedent(code) if code[:1] in " \t" else code
        if plain == code:
            raise
        code = plain
        tree = compile(code, name, "exec", FLAGS | ast.PyCF_ONLY_AST, True)
    except SyntaxError as error:
        line = (error.text or "").lstrip()
        if MAGIC.match(line):
            error.msg = "magics and shell commands are IPython's, and not to be had here"
        raise
    body, last = tree.body, None
    if body and isinstance(body[-1], ast.Expr):
        if not ends_in_semicolon(code, body[-1]):
            last = ast.Expression(body.pop().value)
    if body:
        body = compile(tree, name, "exec", FLAGS, True)
    if last is not None:
        last = compile(last, name, "eval", FLAGS, True)
    return running(run_compiled, body, last, limit)


def run_compiled(body, last, limit):
    if body:
        evaluate(body)
    return show(last, limit) if last else (None, False)


def show(code, limit):
    """Evaluates an expression: the forms of its value, and whether something was left out."""
    value = evaluate(code)
    if value is None:
        return None, False
    shown = bundle(value, limit)
    remember(value)
    return shown


def remember(value):
    """Binds `_`, `__` and `___`, where Python's own prompt does, unless somebody else has."""
    known = builtins.__dict__
    if known.get("_") is recent[0]:
        known["_"], known["__"], known["___"] = recent[:] = value, recent[0], recent[1]


def run_cell(cell, code):
    """Runs one cell: what came of it is a result, whether that was cut, and an error."""
    global phase
    name = f"<cell {cell}>"
    lines = (code + "\n").splitlines(True) if "\n" in code or "\r" in code else [code + "\n"]
    linecache.cache[name] = len(code), None, lines, name
    result, cut, error = None, False, None
    try:
        result, cut = run_body(code, name, limit)
    except BaseException as raised:
        phase = PREPARING
        try:
            # Formatting calls the exception's own methods, which may run for ever.
            error, cut = running(describe, raised, limit)
        except BaseException as worse:
            phase = REPORTING
            kind, text = type(raised).__name__, ""
            if type(raised) is not KeyboardInterrupt:  # else it was two interrupts in a row
                text = f"<its message cannot be shown: {type(worse).__name__}>"
            error = {"name": kind, "value": text, "traceback": f"{kind}: {text}".rstrip(": ")}
    if figures is not None:
        phase = PREPARING
        try:
            running(figures.show_all)
        except BaseException as raised:
            # Drawing runs a cell's own code. Its error is shown, unless it has one already.
            phase = REPORTING
            if error is None:
                error = {
                    "name": type(raised).__name__, "value": "while a figure was drawn",
                    "traceback": f"{type(raised).__name__}: while a figure was drawn",
                }
    phase = REPORTING
    return result, cut, error


def reply(cell, result, cut, error):
    global current, forked, late, late_size, late_cut
    if is_copy:  # a fork that came back from its cell: it has no business here
        os._exit(1 if error else 0)
    with lock:
        for stream in standard:
            if stream.held:
                stream.release()
        current = None
        cut |= late_cut
        if len(unheard) < len(FORKS):
            unheard.update(FORKS)
            forked = True
        if error is None and not late and (result is None or len(result) == 1):
            flags, text = (TAINTED if forked else 0) | (CUT if cut else 0), b""
            if result is not None:
                flags, text = flags | VALUE, result["text/plain"].encode("utf-8", "replace")
            frame = SHORT.pack(b"s", cell, 1 + len(text), flags) + text
        else:
            frame = to_json({
                "result": result, "error": error, "cut": cut, "late": late, "tainted": forked,
            })
            frame = FRAME.pack(b"r", cell, len(frame)) + frame
            late, late_size = [], 0
        late_cut = False
        send(frame)


def tidy():
    """Makes ready for the next cell what the last one may have left in disorder."""
    global forked, replaced, settles
    settles = True
    if forked:
        forked = has_children()
    out, err = standard
    if (
        replaced or sys.stdout is not out or sys.stderr is not err or out.closed or err.closed
        or getattr(sys.stdin, "closed", True) or broken.poll(0)
    ):
        replaced = False
        repair()
    # Not by way of `signal`, which makes an enum member of each answer.
    if _signal.getsignal(2) is not on_interrupt:
        signal.signal(signal.SIGINT, on_interrupt)


def tell_variables():
    """Answers with what cells have bound; a `repr` is a cell's own code, and may be interrupted."""
    global muted, pending, phase
    names = [
        name for name, value in main.__dict__.items()
        if isinstance(name, str) and name[:1] != "_" and type(value) is not types.ModuleType
    ]
    room, told = limit, []
    muted, pending = True, False
    for name in sorted(names):
        value, text = main.__dict__.get(name), ""
        if room > 0:
            phase = PREPARING
            try:
                text = shorten(running(repr, value), min(room, SHOWN))
                room -= len(text.encode("utf-8", "replace"))
            except KeyboardInterrupt:
                room = 0
            except BaseException:
                pass
        told.append({"name": name, "type": type(value).__name__, "repr": text})
    phase = REPORTING
    for stream in standard:
        stream.held.pop(MAIN, None)
    muted = False
    payload = to_json(told)
    with lock:
        send(FRAME.pack(b"v", 0, len(payload)) + payload)
    phase = IDLE


def receive():
    """The next request: (kind, cell, limit, code); at the end of file it is to end."""
    data = requests.read(65_536)
    while len(data) < REQUEST.size:
        more = requests.read(65_536)
        if not more:
            return b"e", 0, 0, ""
        data += more
    kind, cell, limit, length = REQUEST.unpack_from(data)
    code = data[REQUEST.size:]
    if len(code) < length:
        code = bytearray(code)
        while len(code) < length:
            more = requests.read(min(length - len(code), 1 << 20))
            if not more:
                return b"e", 0, 0, ""
            code += more
    return kind, cell, limit, code.decode()


def serve():
    global phase, pending, current, count, limit
    while True:
        kind, cell, limit, code = receive()
        if kind == b"e":
            return
        if kind == b"v":
            tell_variables()
            continue
        if kind == b"n":
            new_pipes()
        try:
            pending, phase = False, PREPARING
            current = count = cell
            outcome = run_cell(cell, code)
        except KeyboardInterrupt:
            # It came just as the cell's last instruction was done.
            phase = REPORTING
            kind = "KeyboardInterrupt"
            outcome = None, False, {"name": kind, "value": "", "traceback": kind}
        phase = REPORTING
        reply(cell, *outcome)
        phase = IDLE
        tidy()


open_null()
sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
standard = list(streams())
sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = standard
sys.argv = [""]
limit = LAID_BY

original_main = sys.modules["__main__"]  # kept: this code runs in it
main = sys.modules["__main__"] = types.ModuleType("__main__")
main.__builtins__ = builtins
scope = main.__dict__
builtins.input = refuse_input
builtins.display = display
getpass.getpass = refuse_getpass

os.dup2 = noticed(os.dup2)
signal.signal(signal.SIGINT, on_interrupt)
os.register_at_fork(before=before_fork, after_in_child=after_fork_in_child)
# Not a function of ours, which would run for each event of any kind.
sys.addaudithook(unheard.pop)
sys.meta_path.insert(0, OnImport())

hello = to_json({"version": sys.version.split()[0]})
send(FRAME.pack(b"h", 0, len(hello)) + hello)
serve()
