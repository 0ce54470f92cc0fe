#!/usr/bin/env python3
"""Draws CPU time per message against the floor, as SVG: plot.py RUNS.jsonl > cpu_per_message.svg

RUNS.jsonl has a line for each measurement, with "server", "scenario", "cpu_us" and "user_us", rounds one after the other.
The floor is the server "floor", and where that has no figure (TLS), "floor-tokio". A machine changes its speed from
round to round, so what is drawn is the median of the ratios within a round. Python's standard library only."""

import json
import statistics
import sys

WIDTH, ROW, LEFT, TOP = 720, 30, 110, 50
SCALE = 170  # pixels for one floor
NAMES = {"smtpd": "#2a6f97", "floor-tokio": "#bcb8b1"}


def read(path):
    """The CPU times by scenario and server, in the order of the rounds."""
    runs = {}
    with open(path) as lines:
        for line in lines:
            run = json.loads(line)
            if run.get("cpu_us"):
                runs.setdefault(run["scenario"], {}).setdefault(run["server"], []).append(run["cpu_us"])
    return runs


def bar(y, times, microseconds, color):
    width = min(times * SCALE, WIDTH - LEFT - 120)
    return (f'<rect x="{LEFT}" y="{y}" width="{width:.0f}" height="9" fill="{color}"/>'
            f'<text x="{LEFT + width + 6:.0f}" y="{y + 9}" font-size="10">{times:.2f} x, {microseconds:,.0f} us</text>')


def main():
    rows, y = [], TOP
    for scenario, servers in read(sys.argv[1]).items():
        floor = servers.get("floor", servers.get("floor-tokio"))
        if not floor or "smtpd" not in servers:
            continue
        rows.append(f'<text x="8" y="{y + 14}" font-size="12">{scenario}</text>')
        for offset, (name, color) in enumerate(NAMES.items()):
            if name in servers:
                times = statistics.median(own / least for own, least in zip(servers[name], floor))
                rows.append(bar(y + 10 * offset, times, statistics.median(servers[name]), color))
        y += ROW
    line = LEFT + SCALE
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10}" font-family="sans-serif" fill="#222">')
    print('<text x="8" y="18" font-size="14">CPU time per message, in multiples of the floor</text>')
    print('<text x="8" y="36" font-size="10">dark: smtpd --discard; light: the floor on tokio; line: the floor, '
          'a program that finds line ends and answers</text>')
    print(f'<line x1="{line}" y1="{TOP - 6}" x2="{line}" y2="{y}" stroke="#222" stroke-dasharray="3 3"/>')
    print("\n".join(rows))
    print("</svg>")


main()
