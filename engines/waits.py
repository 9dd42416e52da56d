"""What engines wait for: a value that a message brings, and room in a memory."""

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

from engines.errors import EngineError
from engines.kv import Slots, Span
from engines.seams.clock import Clock
from engines.tasks import Event, Future, future

T = TypeVar("T")


class Awaited(Generic[T]):
    """A value set once, perhaps before anybody waits for it: data may overtake control.

    `is_set` says whether it is here.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._woken: Future[None] | None = None  # made by who has to wait: most never do
        self._value: T | None = None
        self.is_set = False

    def set(self, value: T) -> None:
        """Hand over the value; a second one is a protocol error."""
        if self.is_set:
            raise EngineError(f"{self._what} arrived twice; a peer repeats itself")
        self._value, self.is_set = value, True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, clock: Clock, deadline_s: float) -> T:
        """The value; DeadlineExceeded names it if it is not here after `deadline_s`."""
        if not self.is_set:
            if self._woken is None or self._woken.done():
                self._woken = future()
            await clock.wait_for(self._woken, deadline_s, self._what)
        assert self._value is not None
        return self._value


class Bandwidth:
    """A memory's bandwidth, reads and writes together, as a timeline that whoever moves KV books.

    A move waits until everything booked before it is through; what it takes itself passes while
    its bytes cross a link, which is slower.
    """

    def __init__(self, clock: Clock, token_layers_per_s: float) -> None:
        self._clock = clock
        self._rate = token_layers_per_s
        self._free_s = 0.0
        self.booked_s = 0.0

    async def turn(self, span: Span) -> None:
        """Book a move and wait until it may begin."""
        start_s = self.book(span)
        if start_s > self._clock.now_s():
            await self._clock.sleep_until_s(start_s)

    def book(self, span: Span) -> float:
        """Book a move, be it ours or by a peer's hand; returns when it may begin."""
        token_layers = (span.last - span.first) * (span.layer_last - span.layer_first)
        busy_s, start_s = token_layers / self._rate, self._clock.now_s()
        if start_s < self._free_s:
            start_s = self._free_s
        self._free_s = start_s + busy_s
        self.booked_s += busy_s
        return start_s


class Backlog:
    """What was handed to a NIC and is not acknowledged yet, counted as it comes and goes.

    `tokens` is that in tokens of all layers, rounded up.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._token_layers = 0
        self.tokens = 0

    def add(self, span: Span, times: int = 1) -> None:
        """A span is on its way; with -1, it is there."""
        tokens = span.last - span.first
        self._token_layers += times * tokens * (span.layer_last - span.layer_first)
        self.tokens = -(-self._token_layers // self._layers)


class _InLine:
    """A turn that waits for its place, or for room for its tokens."""

    def __init__(self, turn: int, tokens: int = 0) -> None:
        self.turn = turn
        self.tokens = tokens
        self.slot: int | None = None
        self.called = Event()


class Arena:
    """Slots of one memory, handed out first come, first served; who does not fit waits."""

    def __init__(self, slots: Slots, what: str = "a memory") -> None:
        self._slots = slots
        self._what = what
        self._line: deque[_InLine] = deque()

    @property
    def free_tokens(self) -> int:
        """Tokens that no slot holds."""
        return self._slots.free_tokens

    @property
    def no_hole(self) -> int:
        """How often somebody waited although tokens enough were free."""
        return self._slots.no_hole

    def waits(self) -> Iterator[str]:
        """Who stands in line, in words."""
        for place in self._line:
            yield (
                f"turn {place.turn} for {place.tokens} tokens of {self._what}, "
                f"{self.free_tokens} free"
            )

    async def take(self, tokens: int, turn: int = 0) -> int:
        """A slot for `tokens` of a turn; waits behind everybody who asked earlier."""
        if (slot := self.take_now(tokens)) is not None:
            return slot
        self._slots.require(tokens)
        place = _InLine(turn, tokens)
        self._line.append(place)
        try:
            await place.called.wait()
        except BaseException:
            self._leave(place)
            raise
        assert place.slot is not None
        return place.slot

    def take_now(self, tokens: int) -> int | None:
        """A slot for `tokens`, or None if they do not fit or others wait for theirs."""
        return None if self._line else self._slots.take(tokens)

    def give(self, slot: int) -> None:
        """Free a slot and serve who stands first in line."""
        self._slots.give(slot)
        self._serve()

    def _serve(self) -> None:
        while self._line and (slot := self._slots.take(self._line[0].tokens)) is not None:
            first = self._line.popleft()
            first.slot = slot
            first.called.set()

    def _leave(self, place: _InLine) -> None:
        """Give up waiting; who was called in the same instant gives its slot back."""
        if place.slot is not None:
            self._slots.give(place.slot)
        else:
            self._line.remove(place)
        self._serve()


class Places:
    """So many turns at a time, first come, first served: `async with places.of(turn)`.

    `most_held` is the most that had a place at a time so far.
    """

    def __init__(self, count: int, what: str) -> None:
        self._count = count
        self._what = what
        self._held = 0
        self._line: deque[_InLine] = deque()
        self.most_held = 0

    def of(self, turn: int) -> "_Place":
        """A place for one turn, while the block lasts."""
        return _Place(self, turn)

    @property
    def in_line(self) -> int:
        """How many wait for a place."""
        return len(self._line)

    @property
    def full(self) -> bool:
        """Whether the next one would have to wait."""
        return self._held == self._count

    def waits(self) -> Iterator[str]:
        """Who stands in line, in words."""
        for place in self._line:
            yield f"turn {place.turn} for {self._what}"

    async def take(self, turn: int) -> None:
        """Wait for a place."""
        if self.full:
            await self._line_up(_InLine(turn))
        else:
            self._held += 1
            if self._held > self.most_held:
                self.most_held = self._held

    async def _line_up(self, place: _InLine) -> None:
        self._line.append(place)
        try:
            await place.called.wait()
        except BaseException:
            if place in self._line:
                self._line.remove(place)
            else:  # called in the same instant
                self.give()
            raise

    def give(self) -> None:
        """Leave a place to the next in line."""
        if self._line:
            self._line.popleft().called.set()
        else:
            self._held -= 1


class _Place:
    """One turn's place."""

    def __init__(self, places: Places, turn: int) -> None:
        self._places = places
        self._turn = turn

    async def __aenter__(self) -> None:
        await self._places.take(self._turn)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._places.give()
