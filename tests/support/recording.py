"""One recorded iteration of one device."""

from pipar_rpc.results.recording import Recording
from pipar_rpc.timing.timeline import Span, Stage

DEVICE = [
    Span(Stage.DEVICE_FORWARD, 0, 1, 10.0, 11.0),
    Span(Stage.UPLINK, 0, 1, 11.0, 13.0),
    Span(Stage.DEVICE_BACKWARD, 0, 1, 15.0, 16.0),
    Span(Stage.UPDATE, 0, 0, 16.0, 16.5),
    Span(Stage.UPLOAD, 0, 0, 16.5, 17.5),
]
SERVER = [
    Span(Stage.SERVER_FORWARD, 0, 1, 12.5, 13.5),
    Span(Stage.SERVER_BACKWARD, 0, 1, 13.5, 14.5),
    Span(Stage.DOWNLINK, 0, 1, 14.5, 15.0),
]
RECORDING = Recording(1, 10.0, [DEVICE], [SERVER], [Span(Stage.AGGREGATE, 0, 0, 17.5, 18.0)])
