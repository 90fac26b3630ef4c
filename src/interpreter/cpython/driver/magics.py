"""IPython's commonest magics and shell commands, for cells that are no Python without them."""

re = library("re")

NAME = re.compile(r"%([A-Za-z_]\w*)(?:[ \t]+(.*))?$", re.S)
HELP = re.compile(r"(%{0,2}(?!\d)[\w]+(?:\.\w+|\[-?\d+\])*)(\?\??)$")
HELP_FIRST = re.compile(r"(\?\??)(%{0,2}(?!\d)[\w]+(?:\.\w+|\[-?\d+\])*)$")
LEADING = re.compile(r"(?:\s*#[^\n]*\n)*\s*")  # lines of comment before a cell magic
SWITCHED_OFF = (
    "magics and shell commands are IPython's, and switched off here: write Python, such as "
    "subprocess.run(['ls'])"
)
WAYS_OUT = {
    "autoreload": "call importlib.reload(module)", "load_ext": "import the package itself",
    "conda": "write !conda ..", "who": "write dir()", "whos": "write dir()",
    "who_ls": "write dir()", "reset": "write del for the names", "run": "write exec(open(path).read())",
    "debug": "print what you want to know", "pdb": "print what you want to know",
    "prun": "import cProfile", "lprun": "import cProfile", "memit": "import tracemalloc",
    "sql": "import sqlite3, or the package of your database", "gui": "leave it out",
    "store": "import pickle", "history": "there is none", "html": "display it: display(.., raw=True)",
}


class UsageError(Exception):
    """A magic that is not to be had, or not so."""


UsageError.__module__ = "builtins"


# ---- from lines of IPython's to Python -----------------------------------------------------------


def without_magics(code, name, error):
    """The code with calls in the place of magics, and its tree; raises `error` if that is not all.

    The compiler says where Python ends. A line there that is a magic is replaced, and it is asked
    again. So what merely looks like one, in a string or within brackets, is left alone.
    """
    builtins.__sessile_magic__ = call_magic
    first = code[LEADING.match(code).end():]
    if first.startswith("%%"):
        head, _, body = first[2:].partition("\n")
        word, _, line = head.partition(" ")
        if re.match(r"[A-Za-z_]\w*\??$", word):
            if not options["magics"]:
                error.msg = SWITCHED_OFF
                raise error
            start = code.count("\n", 0, len(code) - len(first))
            call = f"__sessile_magic__({'%%' + word!r}, {line!r}, {body!r}, {start + 1})"
            code = "\n" * start + call
            return code, compile(code, name, "exec", TOP_LEVEL_AWAIT | ONLY_AST, True)
    lines = code.splitlines()
    for _ in lines:
        at = error.lineno or 0
        # An open bracket or the like is told where it was opened; the line itself is the culprit.
        call, taken = replacement(lines, at - 1) if 0 < at <= len(lines) else (None, 0)
        if call is None:
            raise error
        if not options["magics"]:
            error.msg = SWITCHED_OFF
            raise error
        lines[at - 1:at - 1 + taken] = [call] + [""] * (taken - 1)
        code = "\n".join(lines) + "\n"
        try:
            return code, compile(code, name, "exec", TOP_LEVEL_AWAIT | ONLY_AST, True)
        except SyntaxError as next_error:
            error = next_error
    raise error


def replacement(lines, at):
    """Python for the magic that begins in a line, and how many lines it takes."""
    line, taken = lines[at], 1
    while line.endswith("\\") and at + taken < len(lines) and is_magic(line):
        line = line[:-1] + lines[at + taken].lstrip()
        taken += 1
    text = line.strip()
    indent = line[:len(line) - len(line.lstrip())]
    call = called(text)
    if call is None:
        left, equals, right = text.partition("=")
        call = called(right.strip(), assigned=True) if equals and is_target(left) else None
        call = call and f"{left.rstrip()} = {call}"
    return (indent + call if call else None), taken


def is_magic(line):
    text = line.strip()
    return called(text) is not None or called(text.partition("=")[2].strip(), True) is not None


def is_target(text):
    try:
        compile(f"{text.strip()} = 0", "<target>", "exec")
        return True
    except SyntaxError:
        return False


def called(text, assigned=False):
    """The call that a magic stands for; `None` if it is none."""
    if text.startswith("!!") and not assigned:
        return f"__sessile_magic__('!!', {text[2:].strip()!r})"
    if text.startswith("!"):
        return f"__sessile_magic__({'!!' if assigned else '!'!r}, {text[1:].strip()!r})"
    found = HELP_FIRST.match(text) if text.startswith("?") else HELP.match(text)
    if found and not assigned:
        marks, what = sorted(found.groups(), key=lambda part: not part.startswith("?"))
        return f"__sessile_magic__({marks!r}, {what!r})"
    found = NAME.match(text)
    if found:
        return f"__sessile_magic__({'%' + found[1]!r}, {(found[2] or '').strip()!r})"
    return None


# ---- running them --------------------------------------------------------------------------------


def call_magic(name, line, body=None, start=0):
    frame = sys._getframe(1)
    names = {**frame.f_globals, **frame.f_locals}
    function = MAGICS.get(name)
    if function is None:
        kind = "Cell" if body is not None else "Line"
        known = ", ".join(sorted(one for one in MAGICS if one[0] == "%"))
        bare = name.lstrip("%")
        way = WAYS_OUT.get(bare) or "write Python, or a shell command: !command"
        raise UsageError(f"{kind} magic function `{name}` not found. Instead: {way}. To be had: {known}")
    if body is not None:
        return function(line, names, body, start)
    return function(line, names)


def expanded(text, names):
    """The text with values in the place of `{expression}` and `$name`; as it is if one fails."""
    def value(found):
        if found[0] in ("{{", "}}", "$$"):
            return found[0][0]
        if found[2]:
            return str(names[found[2]]) if found[2] in names else found[0]
        return eval("f" + repr(found[0]), names)

    try:
        return re.sub(r"\{\{|\}\}|\$\$|\{([^{}]+)\}|\$([A-Za-z_]\w*)", value, text)
    except Exception:
        return text


def shell(line, names):
    """`!command`: runs it in a shell, its output shown as it comes."""
    subprocess = library("subprocess")
    flush_standard()
    code = subprocess.run(expanded(line, names), shell=True).returncode
    scope["_exit_code"] = code if code >= 0 else 128 - code


class Lines(list):
    """The lines of a command's output; `.s` as words in one line, `.n` as lines of one text."""

    l = list = property(lambda self: self)
    s = spstr = property(lambda self: " ".join(self))
    n = nlstr = property(lambda self: "\n".join(self))


def captured(line, names):
    """`x = !command`: its output, standard error included, as a list of lines."""
    subprocess = library("subprocess")
    flush_standard()
    ran = subprocess.run(
        expanded(line, names), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    scope["_exit_code"] = ran.returncode if ran.returncode >= 0 else 128 - ran.returncode
    return Lines(ran.stdout.decode("utf-8", "replace").splitlines())


def flush_standard():
    for stream in sys.stdout, sys.stderr:
        stream.flush()


def pip(line, names):
    """`%pip ..`: of the Python that runs here."""
    quote = library("shlex").quote
    shell(f"{quote(sys.executable)} -m pip {line}", names)
    library("importlib").invalidate_caches()
    print("Note: you may need to restart the kernel to use updated packages.")


def cd(line, names):
    """`%cd directory`, `%cd -`, `%cd -q directory`."""
    global previous
    quiet = line.split()[:1] == ["-q"]
    target = expanded(line.partition("-q")[2] if quiet else line, names).strip().strip("'\"")
    here = os.getcwd()
    if target == "-":
        target = previous or here
    os.chdir(os.path.expanduser(target or "~"))
    previous = here
    if not quiet:
        print(os.getcwd())


previous = None


def env(line, names):
    """`%env`, `%env NAME`, `%env NAME=value`."""
    line = line.strip()
    if not line:
        return dict(os.environ)
    name, equals, value = line.partition("=")
    if not equals:
        name, _, value = line.partition(" ")
        if not value:
            if name not in os.environ:
                raise UsageError(f"Environment does not have key: {name}")
            return os.environ[name]
    name, value = name.strip(), expanded(value.strip(), names)
    os.environ[name] = value
    print(f"env: {name}={value}")


def evaluated(code, start):
    """Runs code as the cell's own: its lines have the numbers that they have there."""
    name = f"<cell {count}>"
    code = "\n" * start + code
    body, last = compiled(*parse(code, name), name)
    if body:
        evaluate(body)
    return evaluate(last) if last else None


def time_magic(line, _names, body=None, start=0):
    """`%time statement`, `%%time`: how long it took."""
    code = line if body is None else body
    before, began = os.times(), time.perf_counter()
    value = evaluated(code, start)
    wall, after = time.perf_counter() - began, os.times()
    user, system = after[0] - before[0], after[1] - before[1]
    print(f"CPU times: user {span(user)}, sys: {span(system)}, total: {span(user + system)}")
    print(f"Wall time: {span(wall)}")
    return value


def span(seconds):
    """A time with three digits and the unit that suits it."""
    if seconds >= 60:
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}h {minutes}min {seconds}s" if hours else f"{minutes}min {seconds}s"
    for unit, factor in ("s", 1), ("ms", 1e3), ("\xb5s", 1e6), ("ns", 1e9):
        if seconds * factor >= 1 or unit == "ns":
            return f"{seconds * factor:.3g} {unit}"


def timeit_magic(line, _names, body=None, start=0):
    """`%timeit [-n loops] [-r runs] [-q] [-o] statement`, `%%timeit setup`."""
    loops, runs, quiet, gives = 0, 7, False, False
    while True:
        found = re.match(r"-([nr])\s*(\d+)\s*|-([qo])\s*(?=\s|$)\s*", line)
        if not found:
            break
        line = line[found.end():]
        if found[1] == "n":
            loops = int(found[2])
        elif found[1] == "r":
            runs = int(found[2])
        else:
            quiet, gives = quiet or found[3] == "q", gives or found[3] == "o"
    statement, setup = (line, "pass") if body is None else (body, line or "pass")
    timer = library("timeit").Timer(statement, setup, globals=scope)
    if not loops:
        loops = 1
        while timer.timeit(loops) < 0.2 and loops < 10 ** 9:
            loops *= 10
    times = [seconds / loops for seconds in timer.repeat(runs, loops)]
    mean = sum(times) / len(times)
    spread = (sum((one - mean) ** 2 for one in times) / len(times)) ** 0.5
    if not quiet:
        print(
            f"{span(mean)} \xb1 {span(spread)} per loop (mean \xb1 std. dev. of {runs} "
            f"run{'s' * (runs != 1)}, {loops:,} loop{'s' * (loops != 1)} each)"
        )
    return times if gives else None


def script(program):
    def run(line, names, body, _start):
        """`%%bash`, `%%sh`: the cell is a script of theirs."""
        subprocess = library("subprocess")
        flush_standard()
        ran = subprocess.run([program, *expanded(line, names).split()], input=body.encode())
        if ran.returncode:
            raise subprocess.CalledProcessError(ran.returncode, body.encode())

    return run


def writefile(line, names, body, _start):
    """`%%writefile [-a] path`: the cell is a file's text."""
    appends = line.split()[:1] in (["-a"], ["--append"])
    path = expanded(line.split(None, 1)[1] if appends else line, names).strip().strip("'\"")
    path = os.path.expanduser(path)
    what = "Appending to" if appends else "Overwriting" if os.path.exists(path) else "Writing"
    print(what, path)
    with open(path, "a" if appends else "w", encoding="utf-8") as file:
        file.write(body if not body or body.endswith("\n") else body + "\n")


class Captured:
    """What `%%capture name` has caught."""

    def __init__(self, out, err):
        self.stdout, self.stderr = out, err

    def __str__(self):
        return self.stdout

    def show(self):
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)

    __call__ = show


def capture(line, _names, body, start):
    """`%%capture [name]`: what the cell prints is not shown, but kept under the name."""
    kept = sys.stdout, sys.stderr
    out, err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        evaluated(body, start)
    finally:
        sys.stdout, sys.stderr = kept
        name = line.split()[-1] if line.split() and not line.split()[-1].startswith("-") else None
        if name:
            scope[name] = Captured(out.getvalue(), err.getvalue())


def matplotlib_magic(line, _names):
    """`%matplotlib inline`: figures are shown in any case."""
    if line.strip() not in ("", "inline", "agg", "Agg"):
        raise UsageError(f"figures are shown as pictures only: `%matplotlib inline`, not `{line.strip()}`")


def config(line, _names):
    """`%config InlineBackend..`: without effect; figures are shown in one way only."""
    if not line.strip().startswith("InlineBackend"):
        raise UsageError("there is nothing to configure but matplotlib: write Python")


def shown_as(mime):
    def run(_line, _names, body, _start):
        """`%%html`, `%%markdown`, `%%latex`: the cell is shown as that."""
        display({mime: body, "text/plain": body}, raw=True)

    return run


def describing(with_source):
    def run(what, names):
        """`object?`, `object??`: what it is, and its source."""
        inspect = library("inspect")
        if what.lstrip("%") != what:
            function = MAGICS.get(what)
            print(function.__doc__ if function else f"No such magic: {what}")
            return
        try:
            value = eval(what, names)
        except Exception:
            print(f"Object `{what}` not found.")
            return
        told = []
        if callable(value):
            try:
                told.append(f"Signature: {getattr(value, '__name__', what)}{inspect.signature(value)}")
            except (TypeError, ValueError):
                pass
        told.append(f"Type:      {type(value).__name__}")
        if not callable(value):
            need("variables")
            told.append(f"Value:     {short(value)}")
            length, shape = measure(value)
            if shape is not None or length is not None:
                told.append(f"Shape:     {tuple(shape)}" if shape is not None else f"Length:    {length}")
        source = None
        if with_source:
            try:
                source = inspect.getsource(value)
            except (OSError, TypeError):
                pass
        if source:
            told.append(f"Source:\n{source.rstrip()}")
        else:
            told.append(f"Docstring: {inspect.getdoc(value) or '<no docstring>'}")
        display({"text/plain": "\n".join(told)}, raw=True)

    return run


def alias(command):
    def run(line, names):
        """A command of the shell's."""
        shell(f"{command} {line}", names)

    return run


# All that there is, by what it is written as.
MAGICS = {
    "!": shell,
    "!!": captured,
    "?": describing(False),
    "??": describing(True),
    "%pip": pip,
    "%cd": cd,
    "%pwd": lambda _line, _names: os.getcwd(),
    "%env": env,
    "%set_env": env,
    "%time": time_magic,
    "%%time": time_magic,
    "%timeit": timeit_magic,
    "%%timeit": timeit_magic,
    "%%bash": script("bash"),
    "%%sh": script("sh"),
    "%%writefile": writefile,
    "%%capture": capture,
    "%%html": shown_as("text/html"),
    "%%markdown": shown_as("text/markdown"),
    "%%latex": shown_as("text/latex"),
    "%matplotlib": matplotlib_magic,
    "%config": config,
    **{"%" + name: alias(name) for name in ("ls", "cat", "mkdir", "cp", "mv", "rm")},
}
