

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
    """Keeps what came after its cell had ended, for the next reply; `lock` is held."""
    global late_size, late_cut
    room = LAID_BY - late_size
    if kind == b"d" or len(payload) > room:
        late_cut = True
        if kind == b"d" or room <= 0:
            return
        payload = payload[:room]
    late_size += len(payload)
    text = bytes(payload).decode("utf-8", "replace")
    if late and late[-1][0] == cell and late[-1][1] == kind.decode():
        late[-1][2] += text
    else:
        late.append([cell, kind.decode(), text])


def whose():
    """The cell that the calling thread, or the task that runs in it, belongs to."""
    cell = owner.get(None)
    return cells.get(_thread.get_ident(), count) if cell is None else cell


def emit(kind, payload, cell):
    """Sends what that cell has put out, or lays it by if the cell has ended."""
    global sending, spare
    if is_copy:
        while payload:
            payload = payload[os.write(2 if kind == b"e" else 1, payload):]
        return
    is_main = _thread.get_ident() == MAIN
    if is_main and muted:
        return
    nested = sending
    if is_main:
        sending = True
    try:
        with lock:
            if cell != current:
                lay_by(cell, kind, payload)
                return
            settle()
            piece = payload
            while piece:
                try:
                    if len(piece) <= PIECE or kind == b"d":
                        send(FRAME.pack(kind, cell, len(piece)) + piece)
                        return
                    send(FRAME.pack(kind, cell, PIECE) + piece[:PIECE])
                    piece = memoryview(piece)[PIECE:]
                except MemoryError:
                    if spare is None:
                        raise
                    spare = None
    finally:
        if is_main:
            sending = nested
            if (pending or deferred) and phase == RUNNING and not sending:
                catch_up()


class Bytes(io.RawIOBase):
    """What `sys.stdout.buffer` is. Closing it closes nothing: it is everybody's."""

    def __init__(self, text):
        self.text = text

    def writable(self):
        return True

    def fileno(self):
        return self.text.fileno()

    def isatty(self):
        return False

    def close(self):
        pass

    def write(self, data):
        data = bytes(data)
        cell = whose()
        self.text.flush()
        if data:
            emit(self.text.kind, data, cell)
        return len(data)


class Text(io.TextIOBase):
    """Standard output or standard error: line by line, and each thread's and task's lines apart."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, kind, fd, name):
        self.kind = kind
        self.fd = fd
        self.name = name
        self.held = {}  # (thread, cell) -> its unfinished line
        self.buffer = Bytes(self)

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self.fd

    def reconfigure(self, **_):
        pass

    def detach(self):
        self.flush()
        return self.buffer

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        try:
            self.put(text)
        except MemoryError:
            global spare
            if spare is None:
                raise
            spare = None
            self.put(text)
        return len(text)

    def put(self, text):
        cell = whose()
        key = _thread.get_ident(), cell
        line = self.held.get(key, "") + text
        if "\n" in text or len(line) > HELD:
            data = line.encode("utf-8", "backslashreplace")
            self.held.pop(key, None)
            emit(self.kind, data, cell)
        else:
            self.held[key] = line

    def flush(self):
        if self.held:
            cell = whose()
            line = self.held.pop((_thread.get_ident(), cell), "")
            if line:
                emit(self.kind, line.encode("utf-8", "backslashreplace"), cell)

    def release(self):
        """Sends or lays by what all threads hold, as `emit` would for each; `lock` is held."""
        for key in list(self.held):
            line = self.held.pop(key, "").encode("utf-8", "backslashreplace")
            cell = key[1]
            if cell != current:
                lay_by(cell, self.kind, line)
            elif line:
                settle()
                send(FRAME.pack(self.kind, cell, len(line)) + line)


def streams():
    return Text(b"o", 1, "<stdout>"), Text(b"e", 2, "<stderr>")


def flush_all():
    """Flushes the standard streams, and what the cell has put in their place."""
    for name, stream in zip(("stdout", "stderr"), standard):
        theirs = getattr(sys, name, None)
        if theirs is not stream and theirs is not None:
            try:
                theirs.flush()
            except Exception:
                pass  # it is closed, or none that can be flushed


def is_moved(fd, mark):
    """Whether the descriptor is closed, or another file."""
    try:
        return os.fstat(fd)[1:3] != mark
    except OSError:
        return True


def is_gone(stream):
    return getattr(stream, "closed", True)


def repair():
    """Gives a cell working standard streams, whatever the last one did to them."""
    for fd, tap, mark in (1, taps[0], marks[0]), (2, taps[1], marks[1]):
        if is_moved(fd, mark):
            os.dup2(tap, fd)
    out, err = standard
    if out.closed or err.closed:
        standard[:] = out, err = streams()
    if is_gone(getattr(sys, "stdout", None)):
        sys.stdout = sys.__stdout__ = out
    if is_gone(getattr(sys, "stderr", None)):
        sys.stderr = sys.__stderr__ = err
    try:
        os.fstat(0)
    except OSError:
        open_null()
    if is_gone(getattr(sys, "stdin", None)):
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)


def open_null():
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def new_pipes():
    """Takes the pipes that have been passed, in the place of those that were."""
    global taps, marks
    ancillary = passage.recvmsg(1, _socket.CMSG_SPACE(8))[1]
    old, taps = taps, list(Struct("2i").unpack(ancillary[0][2]))
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
        cell = whose()

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


for module in _thread, sys.modules.get("threading"):
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
    lock = _thread.RLock()
    for stream in standard:
        stream.held.clear()
    for ours in passage, requests, frames, interrupts:
        ours.close()


# ---- signals and tracers -------------------------------------------------------------------------


def on_interrupt(_signal, frame):
    global pending, wanted, blocking
    size = None if is_copy else interrupts.readinto(tokens)
    if size:
        number = max(number for number, in INTERRUPT.iter_unpack(tokens[:size - size % 4]))
        wanted = max(wanted, number)
        if phase in (IDLE, REPORTING):
            left = left_by_cell(frame)
            if left is not None and (number > serial or number == 0 and left is blocking):
                strike()
            blocking = left
            return
        if number != serial:
            return
    if phase == RUNNING and not sending:
        raise KeyboardInterrupt
    if phase in (PREPARING, RUNNING):
        pending = True


def left_by_cell(frame):
    """The outermost frame of what a cell has left behind, if such runs between cells; not where the
    event loop or the driver is amid something of its own, and would lose what it is about to do.
    """
    inner = None
    while frame is not None:
        if frame.f_code is step or frame.f_code is abandoned.__code__:
            return inner and frame
        inner, frame = frame, frame.f_back
    return None


def strike():
    """Interrupts what a cell has left behind, and notes whose it is."""
    global struck
    struck = whose(), sys.modules["asyncio.tasks"].current_task(loop) if idling else None
    raise KeyboardInterrupt


def catch_up():
    """Does, in the running cell, what came when it could not be done."""
    global pending
    while deferred:
        handler, number = deferred.pop(0)
        handler.function(number, sys._getframe())
    if pending:
        pending = False
        raise KeyboardInterrupt


def leave_no_signal():
    """Calls the handlers whose signals came while a reply was made."""
    while deferred:
        handler, number = deferred.pop(0)
        guarded(handler.cell, handler.function, number, sys._getframe())


def guarded(cell, function, *args):
    """Calls what a cell has left behind, between cells: an exception is told as its late output."""
    try:
        abandoned(function, *args)
    except BaseException as error:
        tell_late(cell, error)


def abandoned(function, *args):
    """Calls a cell's code between cells; from here on it may be interrupted."""
    return function(*args)


def tell_late(cell, error):
    """Tells, as late output of that cell, what has ended something that it has left behind."""
    global struck
    was_struck = struck != UNHURT
    need("errors")
    try:
        shown = abandoned(describe, error, LAID_BY // 4)[0]["traceback"]
    except BaseException:
        shown = type(error).__name__
    struck = UNHURT
    what = "Exception between two cells, ignored"
    if was_struck:
        what = "Interrupted, for it did not give way to the next cell"
    with lock:
        lay_by(cell, b"e", f"{what}:\n{shown}\n".encode())


class Handler:
    """A cell's handler for a signal. It may raise in a cell, and never amid the driver's own work."""

    def __init__(self, function):
        self.function = function
        self.cell = whose()

    def __call__(self, number, frame):
        if phase == RUNNING and not sending:
            self.function(number, frame)
        elif phase == IDLE:
            guarded(self.cell, self.function, number, frame)
        else:
            deferred.append((self, number))


def handled(install):
    """Wraps `signal`, which installs a handler."""

    def signal(number, handler):
        if callable(handler) and handler not in OURS and not isinstance(handler, int):
            handler = Handler(handler)
        return plain(install(number, handler))

    return like(install, signal)


def told(look):
    """Wraps `getsignal`."""

    def getsignal(number):
        return plain(look(number))

    return like(look, getsignal)


def plain(handler):
    return handler.function if type(handler) is Handler else handler


def like(original, replacement):
    for name in "__name__", "__qualname__", "__doc__", "__module__":
        value = getattr(original, name, None)
        if value is not None:
            setattr(replacement, name, value)
    return replacement


class Tracer:
    """A cell's tracer or profiler, which is not shown the driver's own functions."""

    def __init__(self, function):
        self.function = function

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename == DRIVER:
            return None
        return self.function(frame, event, arg)


def traced(install):
    """Wraps `sys.settrace` or `sys.setprofile`."""

    def set_tracer(function):
        # Those that are C re-install themselves, and are no business of ours.
        if hasattr(function, "__code__") or hasattr(getattr(type(function), "__call__", None), "__code__"):
            function = Tracer(function)
        install(function)

    return like(install, set_tracer)


def traced_by(look):
    """Wraps `sys.gettrace` or `sys.getprofile`."""

    def tracer():
        found = look()
        return found.function if type(found) is Tracer else found

    return like(look, tracer)


def pause_tracers():
    """Nothing is traced but what cells do."""
    global paused
    found = traces[0](), traces[2]()
    if found != NO_TRACERS:
        paused = found
        traces[1](None)
        traces[3](None)


def resume_tracers():
    global paused
    (tracer, profiler), paused = paused, NO_TRACERS
    if tracer:
        traces[1](tracer)
    if profiler:
        traces[3](profiler)
