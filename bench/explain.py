"""Explanations of a classifier of 96-cubes: seconds, CPU seconds and peak memory of each method, checks included.

Each method runs in a process of its own, so that its memory is its own: ``python bench/explain.py [NETWORK …]``.
OMP_NUM_THREADS says on how many cores (2). On a busy machine threads wait for each other and burn time: there, take
the CPU seconds of one thread.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

METHODS = ("grad-cam", "guided-grad-cam", "integrated-gradients", "occlusion")
NETWORKS = ("densenet121", "resnet18", "seresnet50")
SIDE, THREADS = 96, int(os.environ.get("OMP_NUM_THREADS", "2"))


def measure(name: str, method: str) -> dict[str, object]:
    """Explain one random cube by one method, and check it; say what it took."""
    import torch
    from monai.networks import nets

    from imaging_ai.catalog.explaining import METHODS as KNOWN
    from imaging_ai.catalog.explaining import Explaining
    from imaging_ai.explain.attribution import attribute, baseline_of, passes_at_once
    from imaging_ai.explain.network import class_score, explainable, trace
    from imaging_ai.explain.sanity import curves

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    made = {
        "densenet121": lambda: nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2),
        "resnet18": lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=2),
        "seresnet50": lambda: nets.SEResNet50(spatial_dims=3, in_channels=1, num_classes=2),
    }[name]()
    network = made.eval().requires_grad_(False)
    image = torch.rand(1, 1, SIDE, SIDE, SIDE)
    options = Explaining(methods=KNOWN)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    with explainable(network) as lent:
        found = attribute(lent, image, class_score(1), next(one for one in KNOWN if one == method), options)
        seconds["map"] = time.perf_counter() - wall
        at_once = passes_at_once(trace(lent, image)[1], options)
        curves(lent, image, found.values, class_score(1, "softmax"), baseline_of(image, "minimum"), at_once)
    return {
        "network": name,
        "method": method,
        "map_s": round(seconds["map"], 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "threads": THREADS,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before_mb": before // 1024,
        "completeness_error": found.completeness,
    }


def main(names: list[str]) -> None:
    """Measure each network by each method."""
    for name in names or NETWORKS:
        for method in METHODS:
            command = [sys.executable, __file__, "--one", name, method]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout.strip() or f"{name} {method}: {done.stderr.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    else:
        main(sys.argv[1:])
