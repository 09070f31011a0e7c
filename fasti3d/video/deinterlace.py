"""Fields woven into one frame, taken apart again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from av.filter import Graph
from av.video.frame import VideoFrame

from fasti3d.video.timed_frame import TimedFrame


def deinterlaced(pictures: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """Runs frames that are flagged as interlaced through FFmpeg's yadif, one frame out for one in.

    Progressive frames pass untouched, and before the first interlaced one no filter is set up.
    """
    graph: Graph | None = None
    shape: tuple[int, int, str] | None = None
    waiting: deque[TimedFrame] = deque()
    for picture in pictures:
        frame = picture.frame
        if graph is not None and shape != (frame.width, frame.height, frame.format.name):
            graph.push(None)
            yield from _filtered(graph, waiting)
            graph = None
        if graph is None:
            if not frame.interlaced_frame:
                yield picture
                continue
            graph = _yadif(picture)
            shape = (frame.width, frame.height, frame.format.name)
        waiting.append(picture)
        graph.push(frame)
        yield from _filtered(graph, waiting)
    if graph is not None:
        graph.push(None)
        yield from _filtered(graph, waiting)


def _yadif(picture: TimedFrame) -> Graph:
    frame = picture.frame
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(
        source, graph.add("yadif", mode="send_frame", deint="interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _filtered(graph: Graph, waiting: deque[TimedFrame]) -> Iterator[TimedFrame]:
    while waiting:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, VideoFrame)
        yield waiting.popleft()._replace(frame=frame)
