"""Several processes that do a command's work together, as torchrun starts them; a process alone is a group of one.

Every process does the same but for its share; ``Group`` says which that is and puts the parts together. What is written
and printed is the first process's.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from snnconv.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


class Rows(Protocol):
    """Things in a row: a list, an array or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> Any: ...


T = TypeVar("T")
R = TypeVar("R", bound=Rows)

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, since one may download first; the end of one is noticed at once."""
FAILURES = "snnconv/failures"


@dataclass(frozen=True)
class Group:
    """The processes, seen from one of them.

    Attributes:
        rank: Number of this process, 0 .. size - 1.
        size: How many there are.
        local: Number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """This process's part of so many things: neighbours, as many as the others have or one more or less.

        The parts follow each other in order of rank; the first one has something where there is anything.
        """
        return range(-(-self.rank * number // self.size), -(-(self.rank + 1) * number // self.size))

    def part(self, rows: R) -> R:
        """This process's share of some rows."""
        own = self.share(len(rows))
        part: R = rows[own.start : own.stop]
        return part

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum over the processes, entry by entry, in every process; exact for integers."""
        if self.size == 1:
            return values
        import torch
        from torch import distributed

        total = torch.from_numpy(values.copy())
        distributed.all_reduce(total)
        summed: NDArray[Any] = total.numpy()
        return summed

    def gather(self, value: T) -> list[T]:
        """What each process has, in order of rank, in every process; anything that can be pickled."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def tell(self, work: Callable[[], T]) -> T:
        """What some work of the first process returns, in every process; the others do not do it."""
        if self.size == 1:
            return work()
        from torch import distributed

        told: list[Any] = [work() if self.first else None]
        distributed.broadcast_object_list(told, src=0)
        result: T = told[0]
        return result

    def in_turn(self, work: Callable[[], T]) -> T:
        """Some work of every process, the first one's before the others', who find what it has written."""
        if self.first:
            done = work()
            self.wait()
            return done
        self.wait()
        return work()

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size > 1:
            from torch import distributed

            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.gather(None)

    def place(self, device: torch.device) -> torch.device:
        """The device of this process: of several GPUs its own.

        Raises:
            ConfigError: more processes than GPUs.
        """
        if self.size == 1 or device.type != "cuda" or device.index is not None:
            return device
        import torch

        if self.local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {self.local} of this machine has no GPU of its own, there being {torch.cuda.device_count()}: "
                "start as many processes as GPUs, or take --device cpu"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)


ALONE = Group()


@contextmanager
def open_group(environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """The group that torchrun started this process in; ``ALONE`` where it started none, or only one.

    Values on the CPU travel by gloo, those on GPUs by NCCL. Where processes fail, the first one to do so says why and
    the others end without a word, with exit status 1.

    Raises:
        ConfigError: variables that are no numbers, or a rank outside its group.
        ProcessError: the others cannot be reached, or one of them was lost.
    """
    group = group_of(environment)
    if group.size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed.nn  # imported later, its functions would keep the group as their default for good
    from torch import distributed

    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"{_named(group)} cannot reach the others: {_first_line(error)}") from error
    try:
        yield group
        group.wait()  # the first one may be writing still, and torchrun ends it where another fails
    except (Exception, KeyboardInterrupt) as error:
        if not _fails_first(environment):
            raise SystemExit(1) from error
        if _lost(error):
            raise ProcessError(
                f"{_named(group)} lost the others, one of which has ended without saying why ({_first_line(error)})"
            ) from error
        raise
    gc.collect()  # wrapped models hold the group in cycles
    distributed.destroy_process_group()  # the last to hold it: its threads end here, and not while Python ends


def group_of(environment: Mapping[str, str] = os.environ) -> Group:
    """What torchrun's variables say, before anything is opened; ``ALONE`` without them.

    Raises:
        ConfigError: they are no numbers, or do not go together.
    """
    if not all(name in environment for name in VARIABLES):
        return ALONE
    try:
        rank, size, local = (int(environment[name]) for name in VARIABLES[:3])
    except ValueError as error:
        raise ConfigError(f"{', '.join(VARIABLES[:3])} must be integers, as torchrun sets them: {error}") from error
    if not 0 <= local <= rank < size:
        raise ConfigError(f"LOCAL_RANK (= {local}), RANK (= {rank}) and WORLD_SIZE (= {size}) do not go together")
    return Group(rank, size, local)


def _fails_first(environment: Mapping[str, str]) -> bool:
    """Whether no other process has failed before; asked once, by one that fails."""
    from torch import distributed

    try:
        host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]
        return int(store.add(FAILURES, 1)) == 1
    except RuntimeError:  # the store went with the process that kept it
        return True


def _lost(error: BaseException) -> bool:
    """Whether an error is that of a connection to another process."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _named(group: Group) -> str:
    return f"process {group.rank + 1} of {group.size}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
