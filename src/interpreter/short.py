"""Values for a reader who wants them short: shared by the engines that run Python elsewhere."""

SHOWN = 1_000  # bytes of one variable's short form
FEW = 30  # items of a large collection that are shown


def short(value):
    """The beginning of a value's `repr`, without making the whole of one that is large."""
    kind = type(value)
    if kind in (str, bytes, bytearray) and len(value) > SHOWN:
        return repr(value[:SHOWN])
    if kind in (list, tuple, set, frozenset, dict) and len(value) > FEW:
        items = []
        for item in value.items() if kind is dict else value:
            items.append(item)
            if len(items) == FEW:
                break
        text = repr(dict(items) if kind is dict else kind(items))
        end = len(text.rstrip(")]}"))
        return text[:end] + ", ..." + text[end:]
    return repr(value)


def measure(value):
    """The number of items, and the shape of what has one; not of text that is seen whole."""
    length = shape = None
    if type(value) in (str, bytes, bytearray) and len(value) <= SHOWN:
        return length, shape
    try:
        shape = getattr(value, "shape", None)
        shape = [int(size) for size in shape] if type(shape) is tuple else None
    except Exception:
        shape = None
    try:
        if not isinstance(value, type):
            length = len(value)
    except Exception:
        length = None
    return length, shape
