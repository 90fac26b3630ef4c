"""Values in all their forms, as IPython's formatters have them."""

from binascii import b2a_base64

TEXT = "text/plain"
MIMEBUNDLE = "_repr_mimebundle_"
FORMS = {
    "_repr_html_": ("text/html", str),
    "_repr_markdown_": ("text/markdown", str),
    "_repr_latex_": ("text/latex", str),
    "_repr_json_": ("application/json", (dict, list)),
    "_repr_svg_": ("image/svg+xml", str),
    "_repr_png_": ("image/png", (bytes, str)),
    "_repr_jpeg_": ("image/jpeg", (bytes, str)),
    "_repr_pdf_": ("application/pdf", (bytes, str)),
    "_repr_javascript_": ("application/javascript", str),
}


def method_of(value, name):
    """A value's own method; not that of a class shown as a value, nor of one that has every name."""
    if isinstance(value, type):
        return None
    try:
        if getattr(value, "_ipython_canary_method_should_not_exist_", None) is not None:
            return None
        method = getattr(value, name, None)
    except Exception:
        return None
    return method if callable(method) else None


def form(method, *args, **options):
    """What a method for one form gives, or `None`: its failure spoils no other, and is told."""
    try:
        return method(*args, **options)
    except NotImplementedError:
        return None
    except Exception as error:
        need("errors")
        print(describe(error, limit)[0]["traceback"], file=standard[1])
        return None


def is_wanted(mime, include, exclude):
    return (not include or mime in include) and (not exclude or mime not in exclude)


def forms(value, include=None, exclude=None):
    """A value's forms by MIME type; `None` if it has shown itself."""
    shows_itself = method_of(value, "_ipython_display_")
    if shows_itself and form(lambda: shows_itself() or True):
        return None
    found = {}
    bundle = method_of(value, MIMEBUNDLE)
    if bundle:
        own = form(bundle, include=include, exclude=exclude)
        own = own[0] if isinstance(own, tuple) and own else own
        if isinstance(own, dict):
            found = {mime: data for mime, data in own.items() if is_wanted(mime, include, exclude)}
    if is_figure(value) and "image/png" not in found and is_wanted("image/png", include, exclude):
        found["image/png"] = form(picture, value)
    for name, (mime, kinds) in FORMS.items():
        if mime in found or not is_wanted(mime, include, exclude):
            continue
        method = method_of(value, name)
        data = form(method) if method else None
        data = data[0] if isinstance(data, tuple) and data else data
        if isinstance(data, kinds):
            found[mime] = data
    if TEXT not in found and is_wanted(TEXT, include, exclude):
        if any(data is not None for data in found.values()):
            found[TEXT] = form(repr, value)
        else:
            found[TEXT] = repr(value)  # there is nothing else to show: it fails as a whole
    return found


def fitted(found):
    """The forms as they are sent, whether text was cut, and what was left out: (type, size)."""
    kept, cut, omitted, room = {}, False, [], data_limit
    for mime, data in found.items():
        if isinstance(data, (bytes, bytearray)):
            data = b2a_base64(data, newline=False).decode()
        if data is None:
            continue
        mime = str(mime)
        if mime == TEXT:
            text = shorten(str(data), limit)
            cut = len(text) < len(str(data))
            kept[mime] = text
            continue
        if not mime.endswith("json") and not isinstance(data, str):
            continue
        try:
            text = to_json(data)
            size = len(text) - 2 * isinstance(data, str)
        except (TypeError, ValueError, RecursionError):
            continue
        # As the host reckons what it takes when it has been read.
        parts = 0 if isinstance(data, str) else 700 * text.count(b"{") + 40 * text.count(b",") + 60 * text.count(b"[")
        if size + len(mime) > room or parts > 4 * data_limit:
            omitted.append((mime, size))
        else:
            kept[mime] = data
            room -= size + len(mime)
    return kept, cut, omitted


def shown_value(value):
    found = forms(value)
    return NOTHING if found is None else fitted(found)


def publish_display_data(data, metadata=None, source=None, *, transient=None, update=False, **_options):
    """Shows data that is there by MIME type."""
    if not isinstance(data, dict):
        raise TypeError(f"data must be a dict, got: {data!r}")
    cell = whose()
    for stream in standard:
        stream.flush()
    kept, cut, omitted = fitted(data)
    emit(b"d", to_json({"data": kept, "cut": cut, "omitted": omitted}), cell)


class DisplayHandle:
    """What `display` gives for a `display_id`: shows another value in its place."""

    def __init__(self, display_id=None):
        self.display_id = display_id or os.urandom(16).hex()

    def __repr__(self):
        return f"<{type(self).__name__} display_id={self.display_id}>"

    def display(self, value, **options):
        display(value, display_id=self.display_id, **options)

    def update(self, value, **options):
        update_display(value, display_id=self.display_id, **options)


def display_values(
    *values, include=None, exclude=None, metadata=None, transient=None, display_id=None, raw=False,
    clear=False, update=False, **_options,
):
    if update and not (display_id or transient and "display_id" in transient):
        raise TypeError("display_id required for update_display")
    if display_id is True:
        display_id = os.urandom(16).hex()
    for value in values:
        found = value if raw else forms(value, include, exclude)
        if found:
            publish_display_data(found)
    return DisplayHandle(display_id) if display_id else None


def update_display(value, *, display_id, **options):
    """Shows a value in the place of what was shown under this id."""
    display(value, display_id=display_id, update=True, **options)


def use_display(module):
    """Has IPython's own functions, if it is installed, do what ours do."""
    module.display, module.update_display = display, update_display
    module.publish_display_data, module.DisplayHandle = publish_display_data, DisplayHandle
    module.clear_output = lambda wait=False: None


def use_plotly(module):
    """Has plotly's `show()` show a figure here, and not in a browser."""
    if "PLOTLY_RENDERER" in os.environ:
        return
    show_elsewhere, inline = module.show, "plotly_mimetype"

    def show(fig, renderer=None, validate=True, **options):
        renderer = renderer or module.renderers.default
        found = None
        if all(name in module.renderers for name in renderer.split("+")):
            figure = module.validate_coerce_fig_to_dict(fig, validate)
            found = module.renderers._build_mime_bundle(figure, renderer, **options)
        if not found:
            return show_elsewhere(fig, renderer=renderer, validate=validate, **options)
        display({TEXT: f"<plotly figure of {len(figure.get('data', ()))} traces>", **found}, raw=True)

    module.renderers.default = inline
    module.show = like(show_elsewhere, show)


class Figures:
    """Shows matplotlib's figures: those that are open when a cell ends, or at `show()`.

    It is matplotlib's backend of the name below, unless the environment or the cell names another.
    Not by way of the environment: programs that cells start would look for it in vain.
    """

    NAME = "sessile_figures"

    def __init__(self, matplotlib):
        backend = type(sys)(self.NAME)
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
