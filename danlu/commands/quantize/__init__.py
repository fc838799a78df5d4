"""`danlu quantize`: fewer bits per weight, and what they cost and gain on this machine.

running.py    the run file to a complete folder; goes on where it was killed
source.py     what is quantized: a model folder, or its living export
texts.py      what activations are watched on, and what is compared on
measuring.py  the quantized model beside the original
answers.py    sixteen beginnings, continued by both
precision.py  the dtype that both are compared in
speed.py      prefill and decode before and after, and why it is slower where it is
bounds.py     what it may cost, and the mark of a folder that cost more
fitting.py    bits and methods chosen by a budget
report.py     all of that as plain values
page.py       and as one HTML file; charts.py draws
"""

from danlu.commands.quantize.report import QuantizeReport
from danlu.commands.quantize.running import quantize, run_quantize

__all__ = ["QuantizeReport", "quantize", "run_quantize"]
