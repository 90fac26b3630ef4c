"""The event loop of cells: it runs while a cell awaits, and between cells."""


def session_loop():
    """The loop that all cells share, made when it is first needed; it is this thread's current one."""
    global loop, step
    asyncio = library("asyncio")
    step = asyncio.events.Handle._run.__code__
    if loop is None or loop.is_closed():
        # One that an earlier cell has made and set, with tasks in it.
        policy = asyncio.get_event_loop_policy()
        found = getattr(getattr(policy, "_local", None), "_loop", None)
        loop = found if found is not None and not found.is_closed() else asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def is_loop_wanted():
    """Whether this is the main thread, amid a cell, and no loop runs in it."""
    events = sys.modules.get("asyncio.events")
    return _thread.get_ident() == MAIN and events is not None and events._get_running_loop() is None


def complete(coroutine):
    """Runs the cell's coroutine in the loop."""
    global suspended
    asyncio = library("asyncio")
    loop = session_loop()
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done():  # interrupted: it must not wake up in a later cell
            suspended = waits_at(coroutine)
            task.cancel()
            asyncio.gather(task, return_exceptions=True)
            loop.run_until_complete(asyncio.sleep(0))
        raise


def waits_at(coroutine):
    """The frames of a coroutine that waits, and of those it waits for."""
    frames = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames


def use_loop(module):
    """Has asyncio's functions that need a loop take the one of cells, where none runs."""
    if module.__name__ == "asyncio.tasks":
        module.create_task = making_task(module.create_task)
    for name in "get_event_loop", "ensure_future", "gather":
        if hasattr(module, name) and getattr(module, name).__module__ in (module.__name__, "_asyncio"):
            setattr(module, name, with_loop(getattr(module, name)))


def making_task(create_task):
    def replacement(coro, **options):
        if is_loop_wanted():
            return session_loop().create_task(coro, **options)
        return create_task(coro, **options)

    return like(create_task, replacement)


def with_loop(function):
    def replacement(*args, **options):
        if is_loop_wanted():
            session_loop()
        return function(*args, **options)

    return like(function, replacement)


def idle():
    """Runs the loop until there is a request."""
    global idling, loop, blocking
    if loop.is_closed():
        loop = None
        return
    fd = requests.fileno()
    try:
        loop.add_reader(fd, loop.stop)
    except Exception:
        return
    try:
        while ioctl(fd, FIONREAD, EMPTY) == EMPTY:
            idling = True
            try:
                loop.run_forever()
                if is_closed(fd):
                    break
            except BaseException as error:  # an interrupt, or a task's own `sys.exit()`
                cell, task = struck
                if task:
                    task._log_traceback = False  # it is told here
                tell_late(count if cell is None else cell, error)
            finally:
                idling = False
    finally:
        blocking = None
        loop.remove_reader(fd)


def is_closed(fd):
    """Whether it was the end of the requests that made them readable."""
    select = library("select")
    return bool(select.select([fd], [], [], 0)[0])
