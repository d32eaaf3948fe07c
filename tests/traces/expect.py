#!/usr/bin/env python3
"""Adds up usage rows with no code of the service: expect.py ROWS.csv TIME_ZONE > EXPECTED.json

Every figure is a plain sum over the rows. Prices in pico-USD a token are those that the test sets.
"""
import csv
import json
import sys
from collections import defaultdict
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

PRICES = {  # input, cache read, output
    "acme-large": (3_000_000, 300_000, 15_000_000),
    "acme-small": (123_457, 12_349, 1_234_567),
}


def nano(pico):
    """Whole nano-USD, half to even."""
    whole, rest = divmod(pico, 1000)
    return whole + (rest > 500 or (rest == 500 and whole % 2 == 1))


def figures(row):
    prompt, cached, output = (int(row[name]) for name in ("prompt", "cache_read", "output"))
    price = PRICES.get(row["model"])
    cost = saving = 0
    if price:
        cost = nano((prompt - cached) * price[0] + cached * price[1] + output * price[2])
        saving = nano(cached * (price[0] - price[1]))
    return {
        "requests": 1,
        **{status: int(row["status"] == status) for status in ("succeeded", "failed", "interrupted")},
        "input": prompt - cached,
        "cache_read": cached,
        "output": output,
        "cost_nano_usd": cost,
        "cache_saving_nano_usd": saving,
        "unpriced_lines": int(price is None),
    }


def add(sums, row):
    for name, value in figures(row).items():
        sums[name] = sums.get(name, 0) + value


def tokens(sums):
    return sums["input"] + sums["cache_read"] + sums["output"]


def latency(values):
    """Nearest rank: the smallest value that so many per cent of the values do not exceed."""
    values = sorted(values)
    return {f"p{p}_ms": values[-(-len(values) * p // 100) - 1] for p in (50, 90, 95, 99)} | {
        "max_ms": values[-1],
        "measured": len(values),
    }


def nested():
    return defaultdict(nested)


def main():
    path, zone = sys.argv[1:]
    zone = ZoneInfo(zone)
    with open(path, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    told = nested()
    sessions = defaultdict(list)
    for row in rows:
        local = datetime.fromtimestamp(int(row["time_us"]) // 1_000_000, timezone.utc).astimezone(zone)
        user, model = row["user"], row["model"]
        sessions[row["session"]].append(row)
        for sums in (
            told["tenant"],
            told["models"][model],
            told["users"][user],
            told["months"][user][local.strftime("%Y-%m")]["totals"],
            told["months"][user][local.strftime("%Y-%m")]["models"][model],
            told["days"][user][local.strftime("%Y-%m-%d")],
            told["sessions"][row["session"]]["totals"],
            told["sessions"][row["session"]]["models"][model],
        ):
            add(sums, row)
    for session, of in sessions.items():
        times = [int(row["time_us"]) for row in of]
        told["sessions"][session] |= {
            "user": of[0]["user"],
            "turns": len({row["turn"] for row in of}),
            "first_us": min(times),
            "last_us": max(times),
            "duration_ms": (max(times) - min(times)) // 1000,
        }
    told["latency"] = latency([int(row["latency_ms"]) for row in rows])
    told["reach"] = {"users": len(told["users"]), "sessions": len(sessions)}
    json.dump(told, sys.stdout)


main()
