"""How the C library is called: texts, errors, what it made, and Ctrl-C."""

from __future__ import annotations

import atexit
import ctypes
import operator
import os
import signal
import threading
import weakref
from ctypes import byref, c_void_p
from typing import Any, Callable, Iterable, List, Optional, Tuple, Union

from . import _library as _c

_lib = _c.load()
PathLike = Union[str, "os.PathLike[str]"]


class Error(Exception):
    """What the C library answered: ``status`` is its number, ``status_name`` its name, the text says what to do."""

    #: what was done by the step that was cancelled
    progress: Any = None

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.status_name = _lib.retto_status_name(status).decode()
        super().__init__(message or self.status_name)

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own would call it with the text alone.
        return type(self), (self.status, str(self)), self.__dict__


Error.__module__ = "retto"


def _status(name: str, *arguments: Any) -> tuple[int, str]:
    error = c_void_p()
    with _calls:
        status = getattr(_lib, name)(*arguments, byref(error))
    message = _lib.retto_error_message(error).decode()
    _lib.retto_error_free(error)
    return status, message


def _call(name: str, *arguments: Any) -> None:
    status, message = _status(name, *arguments)
    if status != _c.STATUS_OK:
        raise Error(status, message)


def _new(kind: Any) -> Any:
    value = kind()
    value.struct_size = ctypes.sizeof(kind)
    return value


def _defaults(kind: Any, init: str) -> Any:
    value = kind()
    status = getattr(_lib, init)(byref(value), ctypes.sizeof(kind))
    if status != _c.STATUS_OK:
        raise Error(status, "")
    return value


def _text(text: str) -> tuple[bytes, int]:
    data = text.encode()
    return data, len(data)


def _texts(texts: Iterable[str]) -> Any:
    if isinstance(texts, str):
        raise TypeError("a list of texts is wanted, not one text")
    strings = [_c.String(*_text(text)) for text in texts]
    return (_c.String * len(strings))(*strings)


def _integer(name: str, value: Any, kind: Any) -> int:
    value, end = operator.index(value), 1 << 8 * ctypes.sizeof(kind)
    if not 0 <= value < end:
        # ctypes would cut it down to one that fits.
        raise ValueError(f"{name} is {value}; it must be from 0 to {end - 1}")
    return value


def _path(path: PathLike) -> tuple[bytes, int]:
    return _text(os.fspath(path))


class _Handle:
    """What the library made: freed with ``close()``, at the end of a ``with``, or when it is not used any more."""

    _free: str = ""

    def __init__(self, handle: c_void_p) -> None:
        self._handle = handle
        self._finalizer = weakref.finalize(self, getattr(_lib, self._free), handle)
        _handles.add(self)
        _calls.end_before_finalizers()

    def _end(self) -> None:
        """The interpreter ends, and with it what this has running."""

    def close(self) -> None:
        """Frees it now. Later calls on it raise :class:`Error`."""
        self._finalizer()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_handles: weakref.WeakSet[_Handle] = weakref.WeakSet()


class _Calls:
    """Those into the library. When the interpreter ends, daemon threads are ended where they next want it, which in the midst of the
    library aborts the process, or they go on while its driver is taken down: so all of them have returned before."""

    #: Seconds; one whose callback waits for the main thread never returns.
    patience = 60

    def __init__(self) -> None:
        self._registered = False
        self.begin()

    def begin(self) -> None:
        """None of them runs: at the beginning, and in a child, which has none of its parent's threads."""
        self.ending = False
        self._running = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            if self.has_ended():
                raise RuntimeError("the interpreter is ending")
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def has_ended(self) -> bool:
        """For this thread: the main one may have something to do at the exit."""
        return self.ending and threading.current_thread() is not threading.main_thread()

    def end_before_finalizers(self) -> None:
        # What was registered last is called first: weakref's own exit was registered by the first finalizer, at the latest.
        if not self._registered:
            self._registered = True
            atexit.register(self._end)

    def _end(self) -> None:
        with self._changed:
            self.ending = True
        handles = None
        while handles is None:
            try:
                handles = list(_handles)
            except RuntimeError:  # another thread made one
                pass
        for handle in handles:
            handle._end()
        with self._changed:
            self._changed.wait_for(lambda: self._running <= 0, self.patience)


_calls = _Calls()


def _forget() -> None:
    # A child has none of the threads that its parent's drivers have: freeing what belongs to the parent would wait for them for ever.
    for handle in list(_handles):
        handle._finalizer.detach()
    _handles.clear()
    _calls.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _Interrupt:
    """While the library has the main thread, Ctrl-C is noted, for a callback to see; what it is to do is done at the end."""

    def __init__(self) -> None:
        self.seen = False
        self._before: Any = None

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            try:
                self._before = signal.signal(signal.SIGINT, self._note)
            except ValueError:  # of an interpreter beside the main one
                pass
        return self

    def _note(self, *_: Any) -> None:
        self.seen = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self.seen:
                self._before(signal.SIGINT, None)


def _observed(callback: Any, tell: Callable[..., Optional[bool]], call: Callable[[Any], Any]) -> Any:
    """A call that is handed a callback of the library: ``tell`` hears what that is told, and ends the call by returning ``False``, or what is
    as false, as numpy's; but for ``None``, which a function returns that returns nothing. What it
    raises ends it, too, and is raised here; so does Ctrl-C."""
    thrown: List[BaseException] = []

    def told(*given: Any) -> int:
        try:
            answer = None if _calls.has_ended() else tell(*given)
            return 1 if _calls.has_ended() or interrupt.seen or answer is not None and not answer else 0
        except BaseException as error:  # nothing may pass through C
            thrown.append(error)
            return 1

    with _Interrupt() as interrupt:
        answered = call(callback(told))
    if thrown:
        raise thrown[0]
    return answered


def _made(wrap: Callable[[c_void_p], Any], name: str, *arguments: Any) -> Any:
    """What a call makes, by what frees it some day: only then Ctrl-C is heard."""
    with _Interrupt():
        handle = c_void_p()
        _call(name, *arguments, byref(handle))
        return wrap(handle)


def _counted(progress: Optional[Callable[[int, int], Optional[bool]]], options: Any, name: str, *arguments: Any) -> None:
    """A call with options that have a place for a callback."""

    def call(callback: Any) -> Tuple[int, str]:
        options.on_progress = callback
        return _status(name, *arguments)

    def tell(done: int, total: int, _: object) -> Optional[bool]:
        return None if progress is None else progress(done, total)

    status, message = _observed(_c.CountCallback, tell, call)
    if status != _c.STATUS_OK:
        raise Error(status, message)
