#!/usr/bin/env python3
"""Memory of the processes of a local chain over time. Needs Python only.

    memory.py sample HOME RPC_URL SAMPLES.csv SECONDS
    memory.py plot SAMPLES.csv PLOT.svg TITLE

`sample` writes one line every 5 s for the registry and each node of the chain in AXOLOTL_HOME=HOME,
with the height of the chain at RPC_URL. `plot` draws them from the start of the
load (the first sample after which the chain grows by 5 blocks a second and more), and prints each
process's largest value and its slope: a least-squares line through what comes after minute ten of
the load. MB are 10^6 bytes.
"""

import csv
import json
import os
import sys
import time
import urllib.request
from collections import defaultdict

INTERVAL_S = 5
# Slopes are taken from here on: caches are full.
SETTLED_S = 600
# A chain without load makes a block in 5 s.
LOADED_BLOCKS_PER_S = 5

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 130, 40, 50
COLOURS = ["#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#666666", "#a6761d"]
POINTS = 240


def name_of(pid, home):
    """The name of a node or registry of this chain, nothing for other processes."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            words = file.read().split("\0")
        with open(f"/proc/{pid}/environ") as file:
            variables = dict(v.split("=", 1) for v in file.read().split("\0") if "=" in v)
    except OSError:
        return None
    if not os.path.realpath(variables.get("DATA_DIR", "/")).startswith(home + "/"):
        return None
    if "node" in words[1:]:
        return variables.get("NODE_ID", f"node-{pid}")
    return "registry" if "serve" in words[1:] else None


def resident(pid):
    """Resident bytes of a process; all, and without files."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [int(fields[field].split()[0]) * 1024 for field in ("VmRSS", "RssAnon")]


def height(url):
    """The newest block; nothing when the node does not answer."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []})
    request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=4) as answer:
            return int(json.load(answer)["result"], 16)
    except (OSError, ValueError, KeyError):
        return ""


def sample(home, url, out, seconds):
    home = os.path.realpath(home)
    start = time.monotonic()
    with open(out, "w", buffering=1) as file:
        file.write("second,process,pid,rss,anonymous,height\n")
        while (now := time.monotonic() - start) < seconds:
            head = height(url)
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if not (name := name_of(pid, home)):
                    continue
                try:
                    rss, anonymous = resident(pid)
                except (OSError, KeyError):
                    continue
                file.write(f"{now:.0f},{name},{pid},{rss},{anonymous},{head}\n")
            time.sleep(INTERVAL_S - (time.monotonic() - start) % INTERVAL_S)


def read(path):
    """Points of each process, from the start of the load to its end."""
    series, heights = defaultdict(list), {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            second = float(row["second"])
            series[row["process"]].append((second, int(row["rss"]) / 1e6))
            if row["height"]:
                heights[second] = int(row["height"])
    times = sorted(heights)
    busy = [
        before
        for before, after in zip(times, times[1:])
        if heights[after] - heights[before] >= LOADED_BLOCKS_PER_S * (after - before)
    ]
    # Funding the senders is over after one or two samples: load goes on.
    begin = next((t for t in busy if sum(t <= other < t + 60 for other in busy) >= 9), None)
    if begin is None:
        sys.exit(f"{path}: no load in it")
    end = busy[-1]
    loaded = {
        name: [(t - begin, v) for t, v in points if begin <= t <= end]
        for name, points in sorted(series.items())
    }
    return {name: points for name, points in loaded.items() if points}, end - begin


def slope(points):
    """MB a minute, by least squares."""
    if len(points) < 2:
        return float("nan")
    mean_t = sum(t for t, _ in points) / len(points)
    mean_v = sum(v for _, v in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return 60 * sum((t - mean_t) * (v - mean_v) for t, v in points) / spread


def table(series):
    print("| Process | minute 10 | end | largest | slope after minute 10 |")
    print("|---|---|---|---|---|")
    for name, points in series.items():
        settled = [(t, v) for t, v in points if t >= SETTLED_S]
        at_ten = f"{settled[0][1]:.1f} MB" if settled else "-"
        largest = max(v for _, v in points)
        print(
            f"| {name} | {at_ten} | {points[-1][1]:.1f} MB | {largest:.1f} MB"
            f" | {slope(settled):+.3f} MB/min |"
        )


def step(largest, lines):
    """A round number of which at most `lines` fit into `largest`."""
    sizes = (digit * 10**zeros for zeros in range(9) for digit in (1, 2, 5))
    return next(size for size in sizes if largest / size <= lines)


def svg(series, seconds, title):
    top = max(v for points in series.values() for _, v in points) * 1.1

    def x(t):
        return LEFT + t / seconds * (WIDTH - LEFT - RIGHT)

    def y(v):
        return HEIGHT - BOTTOM - v / top * (HEIGHT - TOP - BOTTOM)

    def line(x1, y1, x2, y2, style):
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'

    def text(at_x, at_y, words, style=""):
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" {style}>{words}</text>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, 'font-size="15"'),
        text(LEFT - 30, TOP - 8, "MB"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "minutes of load", 'text-anchor="middle"'),
    ]
    for value in range(0, int(top) + 1, step(top, 8)):
        out.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), 'stroke="#ddd"'))
        out.append(text(LEFT - 8, y(value) + 4, value, 'text-anchor="end"'))
    for minute in range(0, int(seconds / 60) + 1, step(seconds / 60, 12)):
        out.append(text(x(60 * minute), HEIGHT - BOTTOM + 18, minute, 'text-anchor="middle"'))
    if seconds > SETTLED_S:
        dashed = 'stroke="#999" stroke-dasharray="4 4"'
        out.append(line(x(SETTLED_S), TOP, x(SETTLED_S), HEIGHT - BOTTOM, dashed))
    for place, (name, points) in enumerate(series.items()):
        stroke = f'stroke="{COLOURS[place % len(COLOURS)]}" stroke-width="1.5"'
        every = max(1, len(points) // POINTS)
        path = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points[::every])
        out.append(f'<polyline points="{path}" fill="none" {stroke}/>')
        at = TOP + 18 * place + 10
        out.append(line(WIDTH - RIGHT + 15, at, WIDTH - RIGHT + 35, at, stroke))
        out.append(text(WIDTH - RIGHT + 42, at + 4, name))
    return "\n".join(out) + "\n</svg>\n"


def main():
    match sys.argv[1:]:
        case ["sample", home, url, out, seconds]:
            sample(home, url, out, float(seconds))
        case ["plot", samples, out, title]:
            series, seconds = read(samples)
            table(series)
            with open(out, "w") as file:
                file.write(svg(series, seconds, title))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
