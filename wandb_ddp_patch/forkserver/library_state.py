"""Random numbers and torch's threads: a fork inherits them, a spawned worker has its own.

Random numbers that the script seeds when it is imported are the same in all spawned workers,
others differ from worker to worker. Forks of one process would have the same of NumPy's and
torch's in any case, and different ones of Python's, which seeds itself again in each fork.
"""

from __future__ import annotations

import contextlib
import random
import sys
from typing import Any, ContextManager, Iterator, Optional, Tuple

from .import_audit import replaced

# torch seeds itself with 64 random bits. People seed it with 32, because NumPy takes no more.
_LARGEST_USER_SEED = 2**32 - 1


class LibraryState:
    """Recorded in the forkserver, around the import; restored in each of its forks."""

    def __init__(self) -> None:
        # Of Python's random module, where the script has seeded it.
        self._random_state: Optional[Tuple[Any, ...]] = None
        self._numpy_seed: Optional[bytes] = None
        # Right after torch's own import; None where that was not seen.
        self._torch_seed: Optional[int] = None
        self._torch_threads: Optional[int] = None

    @contextlib.contextmanager
    def recorded_script(self) -> Iterator[None]:
        """Record whether the script seeds Python's and NumPy's random numbers."""
        self._numpy_seed = _numpy_seed()
        seed = _python_seed()
        yield
        if _python_seed() != seed:
            self._random_state = random.getstate()

    def recorded_torch_import(self) -> ContextManager[None]:
        """Record torch's state right after its own import, before the script can change it."""
        finder: Any = sys.modules[__name__.split(".")[0]]._finder
        upstream = finder.on_imported

        def on_imported(name: str) -> None:
            if name == "torch":
                with contextlib.suppress(Exception):
                    self._torch_threads = sys.modules[name].get_num_threads()
                    self._torch_seed = sys.modules[name].initial_seed()
            upstream(name)

        return replaced(finder, on_imported=on_imported)

    def restore_random_numbers(self) -> None:
        """Set the random numbers of this worker to what a spawned one would have."""
        if self._random_state is not None:
            random.setstate(self._random_state)
        if self._numpy_seed is not None and _numpy_seed() == self._numpy_seed:
            sys.modules["numpy.random"].seed()
        torch: Any = sys.modules.get("torch")
        if torch is not None:
            seed = torch.initial_seed()
            if self._torch_seed is None:
                is_torchs_own = seed > _LARGEST_USER_SEED
            else:
                is_torchs_own = seed == self._torch_seed
            if is_torchs_own:
                torch.default_generator.seed()

    def set_torch_threads(self, number: int, at_import: Optional[str]) -> None:
        """Set how many threads torch uses, unless the script has done so.

        torch reads OMP_NUM_THREADS only once, when it is imported: without this, workers would
        keep the number that the variable had when the forkserver was started.

        Args:
            number: The value of OMP_NUM_THREADS now.
            at_import: Its value when torch was imported.
        """
        torch: Any = sys.modules["torch"]
        initial = self._torch_threads
        if initial is None and at_import is not None and at_import.isdigit():
            initial = int(at_import)
        if initial in (None, torch.get_num_threads()):
            torch.set_num_threads(number)


# The state of such a generator is 624 numbers, and how many of them are used up. The numbers
# change when it is seeded, and after 624 draws: so a few draws are not mistaken for a seed.
def _python_seed() -> Tuple[int, ...]:
    numbers: Tuple[int, ...] = random.getstate()[1][:-1]
    return numbers


def _numpy_seed() -> Optional[bytes]:
    module: Any = sys.modules.get("numpy.random")
    return module.get_state()[1].tobytes() if module is not None else None
