"""Reads the events of a run folder with TensorBoard's own classes and prints what it finds as one JSON object.

    python tools/check/tensorboard_events.py RUN

{"scalars": {tag: [[step, value], ...]}, "images": {tag: [[step, height, width, bytes that decode as JPEG or PNG], ...]},
 "histograms": {tag: [[step, [bucket, ...]], ...]}, "texts": {tag: text}, "hparams": {name: value}, "hparam_types": {name: type},
 "metrics": [tag, ...], "status": name or null, "files": [how many events each file holds]}
"""

import glob
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2


def decodes(data):
    return data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9") or (
        data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82"))


def main(run):
    events = EventAccumulator(run, size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    hparams, types, metrics, status = {}, {}, [], None
    for content in events.PluginTagToContent("hparams").values():
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        if data.HasField("session_start_info"):
            for name, value in data.session_start_info.hparams.items():
                hparams[name] = getattr(value, value.WhichOneof("kind"))
        if data.HasField("experiment"):
            types = {info.name: api_pb2.DataType.Name(info.type) for info in data.experiment.hparam_infos}
            metrics = [info.name.tag for info in data.experiment.metric_infos]
        if data.HasField("session_end_info"):
            status = api_pb2.Status.Name(data.session_end_info.status)
    print(json.dumps({
        "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
        "images": {tag: [[e.step, e.height, e.width, decodes(e.encoded_image_string)] for e in events.Images(tag)]
                   for tag in tags["images"]},
        "histograms": {tag: [[e.step, list(e.histogram_value.bucket)] for e in events.Histograms(tag)]
                       for tag in tags["histograms"]},
        "texts": {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
                  for tag in events.PluginTagToContent("text")},
        "hparams": hparams, "hparam_types": types, "metrics": metrics, "status": status,
        "files": [sum(1 for _ in EventFileLoader(path).Load()) for path in sorted(glob.glob(run + "/events.out.tfevents.*"))],
    }))


main(sys.argv[1])
