"""How exceptions are told."""

traceback = library("traceback")
# It imports these as it formats, when there is more on the path than the standard library.
for version, name in ((3, 11), "ast"), ((3, 13), "unicodedata"), ((3, 13), "tokenize"):
    if sys.version_info >= version:
        library(name)


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
    """What a reply says of an exception, and whether that was cut."""
    global suspended
    waiting, suspended = suspended, ()
    kind = type(error)
    if "linecache" in sys.modules:
        remember_lines(sys.modules["linecache"])
    if isinstance(error, SyntaxError) and error.text is None:
        error.text = line_of(error.filename, error.lineno)
    try:
        value = str(error)
    except BaseException:
        # It is its own code that failed. Where it was raised is known all the same.
        value, last = "", [f"{kind.__name__}: <exception str() failed>"]
        stack = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__))
        stack[:] = [frame for frame in stack if frame.filename != DRIVER]
        lines = ["Traceback (most recent call last):\n", *stack.format()] if stack else []
    else:
        options = {"compact": True} if sys.version_info >= (3, 10) else {}
        shown = traceback.TracebackException(kind, error, error.__traceback__, **options)
        without_us(shown)
        if any(is_of_cell(frame) for frame in shown.stack):
            entry = next(at for at, frame in enumerate(shown.stack) if is_of_cell(frame))
            del shown.stack[:entry]  # the event loop's frames, above an await
        elif waiting:
            # The event loop was interrupted: what it waited for says where.
            shown.stack[:] = traceback.StackSummary.extract(iter(waiting))
            without_us(shown)
        lines = list(shown.format())
        last = list(shown.format_exception_only())
    whole = "".join(lines if lines[len(lines) - len(last):] == last else lines + last).rstrip("\n")
    whole, last, value = printable(whole), printable("".join(last).rstrip("\n")), printable(value)
    text = with_end(whole, last, limit)
    short = shorten(value, limit)
    cut = text is not whole or len(short) < len(value)
    return {"name": kind.__name__[:1000], "value": short, "traceback": text}, cut


def printable(text):
    """The text without halves of characters, which cannot be sent."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def is_of_cell(frame):
    return frame.filename.startswith("<cell ")


def line_of(file, number):
    lines = sources.get(file)
    if lines is None or not number:
        return None
    lines = lines.splitlines(True) if type(lines) is str else lines[2]
    return lines[number - 1] if number <= len(lines) else None


def with_end(whole, last, limit):
    """At most `limit` bytes of a traceback: name and message before all, then its two ends."""
    if len(whole) <= limit and len(whole.encode("utf-8", "backslashreplace")) <= limit:
        return whole
    end = shorten(last, limit)
    room = limit - len(end.encode("utf-8", "backslashreplace")) - 60
    if len(end) < len(last) or room < 80 or not whole.endswith(last):
        return end
    above = whole[:len(whole) - len(last)].encode("utf-8", "backslashreplace")
    head, tail = above[:room // 3], above[len(above) - (room - room // 3):]
    head, tail = head[:head.rfind(b"\n") + 1], tail[tail.find(b"\n") + 1:]
    gone = len(above) - len(head) - len(tail)
    middle = f"[... {gone} bytes left out ...]\n"
    return head.decode("utf-8", "ignore") + middle + tail.decode("utf-8", "ignore") + end
