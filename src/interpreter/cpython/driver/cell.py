

# ---- running a cell ------------------------------------------------------------------------------


def ends_in_semicolon(code, statement):
    if ";" not in code:
        return False
    lines = code.encode().splitlines()
    rest = lines[statement.end_lineno - 1][statement.end_col_offset:]
    return rest.lstrip().startswith(b";")


def evaluate(code):
    value = eval(code, scope)
    if code.co_flags & COROUTINE:  # there is an await at top level
        need("tasks")
        return complete(value)
    return value


def refuse_input(*_args, **_kwargs):
    raise StdinNotImplementedError("input was called, but this frontend does not support input requests.")


def refuse_getpass(*_args, **_kwargs):
    raise StdinNotImplementedError("getpass was called, but this frontend does not support input requests.")


class StdinNotImplementedError(NotImplementedError):
    """Nobody is there to answer."""


StdinNotImplementedError.__module__ = "builtins"


def running(task, *args):
    """Calls what runs a cell's own code: here, and only here, an interrupt is raised."""
    global phase
    try:
        phase = RUNNING
        if pending or deferred:
            catch_up()
        return task(*args)
    finally:
        phase = REPORTING


def run_body(code, name):
    # Most cells that are asked for a value are one line. An assignment is not worth the attempt.
    if "\n" not in code and "=" not in code:
        try:
            line = compile(code, name, "eval", TOP_LEVEL_AWAIT, True)
        except Exception:
            pass  # not an expression, or none that is right: to be found out below
        else:
            return running(show, line)
    return running(run_compiled, *compiled(*parse(code, name), name))


def parse(code, name):
    """The code as it is to be compiled, and its tree."""
    try:
        return code, compile(code, name, "exec", TOP_LEVEL_AWAIT | ONLY_AST, True)
    except IndentationError:
        # Copied from within a block, as a whole: that is no error in a notebook.
        plain = dedented(code) if code[:1] in (" ", "\t") else code
        if plain == code:
            raise
        return parse(plain, name)
    except SyntaxError as error:
        if "%" in code or "!" in code or "?" in code:
            need("magics")
            return without_magics(code, name, error)
        raise


def dedented(code):
    lines = code.splitlines(True)
    indents = [line[:len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    common = os.path.commonprefix(indents)
    return "".join(line[len(common):] if line.startswith(common) else line.lstrip(" \t") for line in lines)


def compiled(code, tree, name):
    """The statements, and the last expression if its value is to be shown."""
    body, last = tree.body, None
    if body and isinstance(body[-1], _ast.Expr):
        if not ends_in_semicolon(code, body[-1]):
            last = _ast.Expression(body.pop().value)
    if body:
        body = compile(tree, name, "exec", TOP_LEVEL_AWAIT, True)
    if last is not None:
        last = compile(last, name, "eval", TOP_LEVEL_AWAIT, True)
    return body, last


def run_compiled(body, last):
    if body:
        evaluate(body)
    return show(last) if last else NOTHING


def show(code):
    """Evaluates an expression: the forms of its value, and what was left out of them."""
    value = evaluate(code)
    if value is None:
        return NOTHING
    if type(value).__module__ == "builtins":
        whole = repr(value)
        text = shorten(whole, limit)
        shown = {"text/plain": text}, len(text) < len(whole), ()
    else:
        need("shown")
        shown = shown_value(value)
    remember(value)
    return shown


def remember(value):
    """Binds `_`, `__` and `___`, where Python's own prompt does, unless somebody else has."""
    known = builtins.__dict__
    if known.get("_") is recent[0]:
        known["_"], known["__"], known["___"] = recent[:] = value, recent[0], recent[1]


def display(*values, **options):
    """Shows values between the lines that are printed, each in all its forms, as IPython's does."""
    need("shown")
    return display_values(*values, **options)


def run_cell(cell, code):
    """Runs one cell: its result, whether that was cut, what was left out of it, and an error."""
    global phase, reserve
    name = f"<cell {cell}>"
    sources[name] = code
    if "linecache" in sys.modules:
        remember_lines(sys.modules["linecache"])
    (result, cut, omitted), error = NOTHING, None
    try:
        result, cut, omitted = run_body(code, name)
    except BaseException as raised:
        reserve = None
        phase = PREPARING
        pause_tracers()
        error, cut = told_error(raised)
    if getattr(sys, "stdout", None) is not standard[0] or getattr(sys, "stderr", None) is not standard[1]:
        phase = PREPARING
        try:
            running(flush_all)
        except BaseException:
            pass  # an interrupt: what was not written by then is not this cell's
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
    return result, cut, omitted, error


def told_error(raised):
    """An exception as it is told, and whether that was cut."""
    global phase, spare, reserve
    for _ in 0, 1:
        try:
            need("errors")
            # Formatting calls the exception's own methods, which may run for ever.
            return running(describe, raised, limit)
        except MemoryError:
            spare = reserve = None
        except BaseException as worse:
            phase = REPORTING
            kind, text = type(raised).__name__, ""
            if type(raised) is not KeyboardInterrupt:  # else it was two interrupts in a row
                text = f"<its message cannot be shown: {type(worse).__name__}>"
            return {"name": kind, "value": text, "traceback": f"{kind}: {text}".rstrip(": ")}, False
    phase = REPORTING
    kind = type(raised).__name__
    return {"name": kind, "value": "", "traceback": kind}, True


def remember_lines(linecache):
    """Gives `linecache` the lines of the cells, for tracebacks and `inspect`."""
    for name, code in sources.items():
        if type(code) is str:
            lines = code.splitlines(True)
            if not lines or not lines[-1].endswith("\n"):
                lines.append(lines.pop() + "\n" if lines else "\n")
            linecache.cache[name] = sources[name] = len(code), None, lines, name
        elif name not in linecache.cache:
            linecache.cache[name] = code  # somebody has cleared it


class OnImport:
    """A finder that has a module changed as soon as it has been imported."""

    def __init__(self):
        shown = {
            "matplotlib": "use_figures",
            "IPython.core.display_functions": "use_display",
            "plotly.io._renderers": "use_plotly",
        }
        tasks = dict.fromkeys(("asyncio.events", "asyncio.tasks"), "use_loop")
        self.changes = {
            **{name: ("shown", change) for name, change in shown.items()},
            **{name: ("tasks", change) for name, change in tasks.items()},
            "getpass": (None, "use_getpass"),
            "linecache": (None, "remember_lines"),
        }

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
            room, function = change
            need(room)
            globals()[function](module)

        spec.loader.exec_module = exec_module
        return spec


def use_getpass(module):
    module.getpass = refuse_getpass


# ---- one cell after another ----------------------------------------------------------------------


def reply(cell, result, cut, omitted, error):
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
        if error is None and not late and not omitted and (result is None or len(result) == 1 and "text/plain" in result):
            flags, text = (TAINTED if forked else 0) | (CUT if cut else 0), b""
            if result is not None:
                flags, text = flags | VALUE, result["text/plain"].encode("utf-8", "replace")
            send(SHORT.pack(b"s", cell, 1 + len(text), flags) + text)
        else:
            payload = to_json({
                "result": result, "error": error, "cut": cut, "omitted": omitted, "late": late,
                "tainted": forked,
            })
            send(FRAME.pack(b"r", cell, len(payload)) + payload)
            late, late_size = [], 0
        late_cut = False


def tidy():
    """Makes ready for the next cell what the last one may have left in disorder."""
    global forked, settles
    settles = True
    if reserve is None or spare is None:
        set_aside()
    if forked:
        forked = has_children()
    out, err = standard
    if (
        getattr(sys, "stdout", None) is not out or getattr(sys, "stderr", None) is not err
        or out.closed or err.closed or is_gone(getattr(sys, "stdin", None))
        or is_moved(1, marks[0]) or is_moved(2, marks[1]) or is_moved(0, null_mark)
    ):
        repair()
    if handler_of(2) is not on_interrupt:
        install_handler(2, on_interrupt)


def receive():
    """The next request: (kind, cell, limits, code); at the end of file it is to end."""
    data = requests.read(65_536)
    while len(data) < REQUEST.size:
        more = requests.read(65_536)
        if not more:
            return b"e", 0, 0, 0, ""
        data += more
    kind, cell, limit, data_limit, length = REQUEST.unpack_from(data)
    code = data[REQUEST.size:]
    if len(code) < length:
        code = bytearray(code)
        while len(code) < length:
            more = requests.read(min(length - len(code), 1 << 20))
            if not more:
                return b"e", 0, 0, 0, ""
            code += more
    return kind, cell, limit, data_limit, code.decode()


def serve():
    """Serves requests until there are no more.

    Where there is no memory left to tell even that, it says so with what was made at the start, and
    ends: by no function of ours, for a call takes memory too.
    """
    global phase, pending, serial, current, count, limit, data_limit, reserve, spare
    while True:
        if loop is not None:
            idle()
        try:
            kind, cell, limit, data_limit, code = receive()
        except MemoryError:
            send_frame(NO_MEMORY)
            end_process(1)
        if kind == b"e":
            return
        serial += 1
        phase = PREPARING
        if wanted == serial:
            pending = True
        if kind == b"v":
            need("variables")
            tell_variables()
            phase = IDLE
            continue
        if kind == b"n":
            new_pipes()
        try:
            current = count = cell
            owner.set(cell)
            if paused != NO_TRACERS:
                resume_tracers()
            outcome = run_cell(cell, code)
        except KeyboardInterrupt:
            # It came just as the cell's last instruction was done.
            phase = REPORTING
            kind = "KeyboardInterrupt"
            outcome = None, False, (), {"name": kind, "value": "", "traceback": kind}
        except MemoryError:
            phase = REPORTING
            reserve = spare = None
            outcome = MEMORY_ERROR
        phase = REPORTING
        pending = False
        pause_tracers()
        try:
            reply(cell, *outcome)
        except MemoryError:
            reserve = spare = None
            try:
                reply(cell, *outcome)
            except MemoryError:
                send_frame(NO_MEMORY)
                end_process(1)
        outcome = None
        if deferred:
            leave_no_signal()
        try:
            tidy()
        except Exception:
            pass  # what is in disorder then is the next cell's to see
        phase = IDLE


NOTHING = None, False, ()  # what a cell without a value shows
NO_MEMORY, send_frame, end_process = FRAME.pack(b"m", 0, 0), frames.write, os._exit
MEMORY_ERROR = None, False, (), {
    "name": "MemoryError", "value": "", "traceback": "MemoryError",
}
from _json import encode_basestring as quoted

idling = False
OURS = (on_interrupt, _signal.default_int_handler)
install_handler, handler_of = _signal.signal, _signal.getsignal
open_null()
null_mark = os.fstat(0)[1:3]
sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
standard = list(streams())
sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = standard
sys.argv = [""]

original_main = sys.modules["__main__"]  # kept: this code runs in it
main = sys.modules["__main__"] = type(sys)("__main__")
main.__builtins__ = builtins
scope = main.__dict__
builtins.input = refuse_input
builtins.display = display

install_handler(2, on_interrupt)
for module in _signal, sys.modules.get("signal"):
    if module is _signal:
        module.signal, module.getsignal = handled(module.signal), told(module.getsignal)
traces = sys.gettrace, sys.settrace, sys.getprofile, sys.setprofile
NO_TRACERS = paused = None, None
sys.settrace, sys.setprofile = traced(sys.settrace), traced(sys.setprofile)
sys.gettrace, sys.getprofile = traced_by(sys.gettrace), traced_by(sys.getprofile)
os.register_at_fork(before=before_fork, after_in_child=after_fork_in_child)
# Not a function of ours, which would run for each event of any kind.
sys.addaudithook(unheard.pop)
sys.meta_path.insert(0, OnImport())
standard_path, sys.path[:] = sys.path[:], path
set_aside()

if made:
    send(FRAME.pack(b"k", 0, len(made)) + made)
made = None
hello = to_json({"version": sys.version.split()[0]})
send(FRAME.pack(b"h", 0, len(hello)) + hello)
serve()
