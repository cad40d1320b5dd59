"""Interlaced frames become whole ones by FFmpeg's bwdif: one for each, at its time; others pass through as they are."""

from collections import deque
from collections.abc import Iterable, Iterator

import av
from av.filter import Graph


def deinterlace(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield as many frames as are given: those that are marked as interlaced deinterlaced.

    From the first of them on each frame is held back until the next one is there, which the filter looks at.
    """
    graph, shape = None, None
    waiting: deque[av.VideoFrame] = deque()
    for frame in frames:
        if graph is not None and shape != _shape(frame):
            yield from _rest(graph, waiting)
            graph = None
        if graph is None:
            if not frame.interlaced_frame:
                yield frame
                continue
            graph, shape = _graph(frame), _shape(frame)
        waiting.append(frame)
        graph.vpush(frame)
        yield from _pull(graph, waiting)
    if graph is not None:
        yield from _rest(graph, waiting)


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    # the filter converts what it does not know to what it does
    filters = [graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), graph.add("buffersink")]
    graph.link_nodes(source, *filters).configure()
    return graph


def _rest(graph: Graph, waiting: deque[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    graph.vpush(None)
    yield from _pull(graph, waiting)


def _pull(graph: Graph, waiting: deque[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield the frames that are ready, with the times of those that they were made of."""
    while waiting:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        like = waiting.popleft()
        frame.pts, frame.time_base, frame.duration = like.pts, like.time_base, like.duration
        yield frame
