"""Repair the times of an input's packets: clocks that begin anew, times missing, repeated or going back."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE
# A clock that may begin anew (MPEG-TS and -PS) does so where it goes forward by more than this, as FFmpeg has it.
FORWARD = 10  # seconds
SETTLED = 3  # packets: so many that follow tell a clock that begins anew from one wrong time
SAME_STEP = 1  # seconds: streams whose clocks change by the same but for this do it together


@dataclass(frozen=True)
class Packets:
    """The packets of one stream in the order of the file, as the container states them.

    Attributes:
        base: seconds in a tick.
        shown, decoded: their times in ticks, or NO_TIME.
        durations: in ticks; 0 where the container has none.
        places: of each among the packets of all streams.
    """

    base: Fraction
    shown: "array[int]" = field(default_factory=lambda: array("q"))
    decoded: "array[int]" = field(default_factory=lambda: array("q"))
    durations: "array[int]" = field(default_factory=lambda: array("q"))
    places: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, shown: int | None, decoded: int | None, duration: int | None, place: int) -> None:
        """Add the next packet."""
        self.shown.append(NO_TIME if shown is None else shown)
        self.decoded.append(NO_TIME if decoded is None else decoded)
        self.durations.append(max(duration or 0, 0))
        self.places.append(place)

    def lengthen(self, duration: int | None) -> None:
        """Add the time of a packet that repeats the last one."""
        if self.durations and self.durations[-1]:
            self.durations[-1] += max(duration or 0, 0)

    @property
    def clock(self) -> Sequence[int]:
        """The times by which the packets follow each other, in ticks, or NO_TIME."""
        return self.decoded if 2 * self.decoded.count(NO_TIME) <= len(self.decoded) else self.shown


@dataclass(frozen=True)
class Join:
    """Where a recording was joined to the one before.

    Attributes:
        place: of its first packet of video among all packets.
        step: by how much the clock of the video changed there, in seconds.
        offset: what makes its times go on from the part before, in seconds.
    """

    place: int
    step: Fraction
    offset: Fraction


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a video are shown.

    Attributes:
        base: seconds in a tick.
        times: of each packet's frame, in ticks, in the order of the packets; None if frames follow at the rate 1 /
            base.
        durations: of each packet's frame, in ticks.
        repaired: number of times that were missing, repeated or went back.
        joins: where the clock began anew.
    """

    base: Fraction
    times: Sequence[int] | None
    durations: Sequence[int]
    repaired: int = 0
    joins: Sequence[Join] = ()

    def duration(self, time: int) -> int:
        """Return how long the frame at a time is shown, in ticks."""
        if self.times is None:
            return 1
        try:
            return self.durations[self.times.index(time)]
        except ValueError:  # it was moved by the decoder's order
            return median_low(self.durations)


def repair_frame_times(
    video: Packets, rate: Fraction, reordered: bool, forward: bool, length: int | None = None
) -> FrameTimes:
    """Return when frames are shown: as their packets say, but for times that cannot be.

    A wrong time is put between its neighbours. If more than half are wrong, the frames follow each other at the rate.

    Args:
        video: the packets.
        rate: frames per second.
        reordered: whether frames may be shown in another order than that of the packets.
        forward: whether a clock may begin anew by going forward.
        length: of all frames together, in ticks, where that says how long the last one is shown; else its packet does.
    """
    count, base, clock = len(video.shown), video.base, video.clock
    if reordered and clock is not video.decoded:
        clock = array("q", [NO_TIME]) * count
    durations = _known_durations(video.durations, max(round(1 / rate / base), 1))
    times: array[int] = array("q")
    joins: list[Join] = []
    wrong = end = 0
    for first, last in pairwise([0, *find_joins(clock, FORWARD / base if forward else None), count]):
        part, bad = _repair(video.shown[first:last], durations[first:last], reordered)
        wrong += bad
        offset = 0
        if first:
            offset = end - min(part)
            before = next(time for time in reversed(clock[:first]) if time != NO_TIME)
            joins.append(Join(video.places[first], (clock[first] - before) * base, offset * base))
        times.extend(time + offset for time in part)
        if part:
            final = max(range(len(part)), key=part.__getitem__)
            end = part[final] + offset + durations[first + final]
    if wrong * 2 > count:
        return FrameTimes(1 / rate, None, array("q", [1]) * count, count)
    if length is not None and times and not joins:
        final = max(range(count), key=times.__getitem__)
        left = min(times) + length - times[final]
        durations[final] = left if left > 0 else durations[final]
    return FrameTimes(base, times, durations, wrong, joins)


def find_joins(clock: Sequence[int], forward: Fraction | None) -> list[int]:
    """Find the packets from which on a stream's clock is another. One wrong time among right ones is none of them.

    Args:
        clock: times of the packets, or NO_TIME.
        forward: a step forward that is larger begins a clock anew; None if none does.
    """

    def follows(time: int, before: int) -> bool:
        return time > before and (forward is None or time - before <= forward)

    known = [(index, time) for index, time in enumerate(clock) if time != NO_TIME]
    joins: list[int] = []
    for n, ((_, before), (index, time)) in enumerate(pairwise(known), 1):
        if follows(time, before) or time == before:
            continue
        after = [later for _, later in known[n + 1 : n + 1 + SETTLED]]
        goes_on = bool(after) and all(follows(b, a) for a, b in pairwise([time, *after]))
        one_is_wrong = any(follows(later, before) for later in after)
        if n > 1:  # or the one before
            one_is_wrong |= follows(time, known[n - 2][1])
        if goes_on and not one_is_wrong:
            joins.append(index)
    return joins


def _known_durations(durations: Sequence[int], otherwise: int) -> "array[int]":
    if 0 not in durations:
        return array("q", durations)
    usual = median_low([duration for duration in durations if duration] or [otherwise])
    return array("q", [duration or usual for duration in durations])


def _repair(shown: Sequence[int], durations: Sequence[int], reordered: bool) -> tuple[Sequence[int], int]:
    """Return the times of one part's packets, no two the same, and how many of them had another or none."""
    order = list(range(len(shown)))
    if reordered:  # one without a time follows the packet before it
        last, keys = 0, []
        for time in shown:
            last = last if time == NO_TIME else time
            keys.append(last)
        order.sort(key=keys.__getitem__)
    row = [shown[i] for i in order]
    if NO_TIME not in row and all(a < b for a, b in pairwise(row)):
        return shown, 0
    steps = [durations[i] for i in order]
    good = _longest_increase(row)
    if good:
        first, final = good[0], good[-1]
        for position in reversed(range(first)):
            row[position] = row[position + 1] - steps[position]
        for left, right in pairwise(good):
            for position in range(left + 1, right):
                part = Fraction(position - left, right - left)
                row[position] = row[left] + round((row[right] - row[left]) * part)
        for position in range(final + 1, len(row)):
            row[position] = row[position - 1] + steps[position - 1]
    times = [0] * len(row)
    last = NO_TIME
    for position, i in enumerate(order):
        times[i] = last = max(row[position], last + 1)
    return times, len(row) - len(good)


def _longest_increase(row: Sequence[int]) -> list[int]:
    """Return the positions of the longest series of times that go forward; of several the one that begins first."""
    tops: list[
        int
    ] = []  # the greatest time with which a series of each length can begin, negated, behind a position
    lengths = [0] * len(row)
    for position in reversed(range(len(row))):
        if row[position] == NO_TIME:
            continue
        length = bisect_left(tops, -row[position])
        lengths[position] = length + 1
        if length == len(tops):
            tops.append(-row[position])
        else:
            tops[length] = min(tops[length], -row[position])
    series: list[int] = []
    wanted, last = len(tops), NO_TIME
    for position, time in enumerate(row):
        if wanted and lengths[position] == wanted and time > last:
            series.append(position)
            wanted, last = wanted - 1, time
    return series


@dataclass(frozen=True)
class CopyTimes:
    """When the packets of a stream that is copied are heard or read.

    Attributes:
        offsets: what is added to the times of each packet, in ticks, NO_TIME for one that is left out; None if
            nothing is to be done.
        moved: number of packets whose times went back and are put right.
        left_out: number of packets that lie over others.
        duration: of a packet that states none, in ticks.
    """

    duration: int
    offsets: Sequence[int] | None = None
    moved: int = 0
    left_out: int = 0


def repair_copy_times(packets: Packets, joins: Sequence[Join], overlapping: bool) -> CopyTimes:
    """Return the times at which a copied stream's packets stay beside the frames.

    From a join on they move with the video. A packet that goes back is left out where it lies over one before.

    Args:
        packets: of the stream.
        joins: those of the video.
        overlapping: whether packets may lie over each other, as subtitles do.
    """
    clock = packets.clock
    duration = 0 if overlapping else median_low([length for length in packets.durations if length] or [0])
    if not joins and (overlapping or all(a < b for a, b in pairwise(clock))):
        return CopyTimes(duration)
    parts = _parts(packets, clock, joins)
    offsets: array[int] = array("q")
    moved = left_out = part = last_part = 0
    last = end = NO_TIME
    for index, time in enumerate(clock):
        while part < len(parts) and parts[part] <= index:
            part += 1
        offset = round(joins[part - 1].offset / packets.base) if part else 0
        if time != NO_TIME and not overlapping:
            start, length = time + offset, packets.durations[index] or duration
            if (start < last or part > last_part) and start < end - length // 2:
                left_out += 1
                offsets.append(NO_TIME)
                continue
            offset += max(last + 1 - start, 0)
            last, last_part = time + offset, part
            start = last
            end = max(start + length, end)
        moved += offset != 0
        offsets.append(offset)
    return CopyTimes(duration, offsets, moved, left_out)


def _parts(packets: Packets, clock: Sequence[int], joins: Sequence[Join]) -> list[int]:
    """Find the packet with which each joined part of a stream begins: where its clock changes as the video's does."""
    known = [(index, time) for index, time in enumerate(clock) if time != NO_TIME]
    steps = [(index, (time - before) * packets.base) for (_, before), (index, time) in pairwise(known)]
    changes = [(index, step) for index, step in steps if step < 0 or step > FORWARD]
    parts: list[int] = []
    for join in joins:
        first = parts[-1] + 1 if parts else 0
        near = [index for index, step in changes if index >= first and abs(step - join.step) <= SAME_STEP]
        by_place = max(bisect_left(packets.places, join.place), first)
        parts.append(min(near, key=lambda i: abs(packets.places[i] - join.place), default=by_place))
    return parts
