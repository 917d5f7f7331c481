"""Who compiles one of torch's extensions, while the others wait: a lock that goes with its process.

DeepSpeed compiles its operators at the first training. Torch's own baton is a file that exists: a process
that is killed meanwhile leaves it there, and every later training waits for it for good.
"""

import contextlib
import fcntl
import os

from torch.utils import cpp_extension, file_baton


class Baton(file_baton.FileBaton):
    """Torch's baton, held by the kernel for as long as its process lives."""

    def try_acquire(self) -> bool | None:
        """Whether this process is to compile. A file that is left over is nobody's."""
        self.fd = os.open(self.lock_file_path, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            os.close(self.fd)
            return False
        except OSError:  # a file system without locks
            os.close(self.fd)
            return super().try_acquire()

    def wait(self) -> None:
        """Wait until nobody compiles any more."""
        with contextlib.suppress(FileNotFoundError), open(self.lock_file_path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
            except OSError:
                super().wait()

    def release(self) -> None:
        """Let the others go on; the file goes first, as torch's own batons expect."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.lock_file_path)
        os.close(self.fd)


def install() -> None:
    """Have torch use these batons in this process."""
    cpp_extension.FileBaton = Baton
