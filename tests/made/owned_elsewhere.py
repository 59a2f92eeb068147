"""A lock that is held by another than the one that asks for it."""

import threading
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def owned_elsewhere(lock: AbstractContextManager[None]):
    """Hold a lock of `truepair.files.locking` in another thread, which is as much in the way as another process."""
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(60)
    try:
        yield
    finally:
        is_over.set()
        thread.join()
