"""Pictures and tables of what plans decide and what runs showed, as SVG and HTML."""

from unifreeze._drawing.freeze_map import freeze_map
from unifreeze._drawing.loss_chart import loss_chart
from unifreeze._drawing.notebook import html_of
from unifreeze._drawing.page import report_page
from unifreeze._drawing.picture import Picture
from unifreeze._drawing.run_chart import run_chart
from unifreeze._drawing.timeline import Timeline, timeline, timeline_of

__all__ = [
    "Picture",
    "Timeline",
    "freeze_map",
    "html_of",
    "loss_chart",
    "report_page",
    "run_chart",
    "timeline",
    "timeline_of",
]
